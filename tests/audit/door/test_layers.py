"""The door's layers, each without the others: the look at the statement, what DuckDB is told, and what the kernel takes away."""

import pytest

from tests.audit.door.arena import OUTSIDE, Arena, leaks
from tests.audit.door.attacks import ATTACKS, Attack
from tests.audit.door.stripped import stripped

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

COSTLY = ("time", "memory", "size of the result", "depth", "length")
REACHING = ("writing inside a query", "files", "what a hostile writer has stored")


def cheap(*families: str) -> list[Attack]:
    """Attacks of `families`, all where none is named, but for those that cost much, have values, or are no plain text."""
    return [
        attack
        for attack in ATTACKS
        if attack.family not in COSTLY and (not families or attack.family in families) and not attack.parameters and attack.sql.isascii()
    ]


def test_without_any_layer_the_attacks_succeed(place: Arena) -> None:
    found = stripped(place.file, [place.sql(attack) for attack in cheap("files")], "check", "settings", "kernel")
    assert sum(bool(leaks(line)) for line in found) > 30


def test_without_the_look_at_the_statement_nothing_outside_is_reached(place: Arena) -> None:
    before, visits = place.content(), len(place.visits)
    found = stripped(place.file, [place.sql(attack) for attack in cheap()], "check", together=25)
    assert [line for line in found if leaks(line, secrets=OUTSIDE)] == []
    assert (place.content(), len(place.visits)) == (before, visits)


def test_without_duckdbs_settings_either_the_kernel_keeps_every_file_shut(place: Arena) -> None:
    before = place.content()
    found = stripped(place.file, [place.sql(attack) for attack in cheap(*REACHING)], "check", "settings")
    assert [line for line in found if leaks(line, secrets=OUTSIDE)] == []
    assert place.content() == before


def test_without_duckdbs_settings_either_the_kernel_keeps_the_network_shut(place: Arena) -> None:
    before, visits = place.content(), len(place.visits)
    stripped(place.file, [place.sql(attack) for attack in cheap("network")[:3]], "check", "settings")
    assert (place.content(), len(place.visits)) == (before, visits)


def test_without_the_kernel_statement_and_settings_hold(place: Arena) -> None:
    before, visits = place.content(), len(place.visits)
    found = stripped(place.file, [place.sql(attack) for attack in cheap()], "kernel", together=25)
    assert [line for line in found if leaks(line)] == []
    assert (place.content(), len(place.visits)) == (before, visits)
