"""Every function that DuckDB lists, called with what would reach a secret, without the look at the statement."""

from typing import NamedTuple

import pytest

from tests.audit.door.arena import FOLDER, OUTSIDE, Arena, leaks
from tests.audit.door.functions import calls, functions
from tests.audit.door.stripped import stripped

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]


class Called(NamedTuple):
    """Each call's function with what it gave, and whether any of them wrote."""

    lines: list[tuple[str, str]]
    changed: bool


@pytest.fixture(scope="module")
def called(place: Arena) -> Called:
    before = place.content()
    asked = [(function.name, call) for function in functions() for call in calls(function)]
    found = stripped(place.file, [place.fill(call) for _, call in asked], "check", together=200)
    return Called([(name, line) for (name, _), line in zip(asked, found, strict=True)], place.content() != before)


def test_most_of_them_run(called: Called) -> None:
    names = {name for name, _ in called.lines}
    ran = {name for name, line in called.lines if line.startswith('{"rows"')}
    assert len(names) > 1000
    assert len(ran) > 0.75 * len(names)


def test_none_reaches_what_is_outside(place: Arena, called: Called) -> None:
    assert [name for name, line in called.lines if leaks(line, secrets=OUTSIDE)] == []
    assert place.visits == []


def test_none_writes(called: Called) -> None:
    assert not called.changed


def test_those_that_say_where_the_file_stands_are_refused_by_name(place: Arena, called: Called) -> None:
    telling = {name for name, line in called.lines if FOLDER in line}
    asked = [place.fill(call) for function in functions() if function.name in telling for call in calls(function)]
    assert telling
    assert [line for line in stripped(place.file, asked, "kernel", together=200) if leaks(line)] == []
