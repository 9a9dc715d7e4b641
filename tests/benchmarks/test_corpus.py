"""The manifest of the corpus: each kind has what it must, and the halves are what they were."""

import re

import pytest

from benchmarks.corpus import CASES, CAUSES, CLEAN_GROUPS, GROUPS, Case

BROKEN = [case for case in CASES if case.at is not None]
CLEAN = [case for case in CASES if case.at is None]


def test_names_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_kind_has_a_name_of_plain_words(case: Case) -> None:
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", case.name)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_fault_says_when_how_bad_why_and_what(case: Case) -> None:
    assert case.group in GROUPS
    assert case.at is not None
    assert case.at >= 0
    assert case.severity in {"critical", "warning", "info"}
    assert case.cause in CAUSES
    assert len(case.told) > 10


@pytest.mark.parametrize("case", CLEAN, ids=lambda case: case.name)
def test_a_clean_kind_says_nothing_of_a_fault(case: Case) -> None:
    assert case.group in CLEAN_GROUPS
    assert (case.severity, case.cause, case.told) == (None, "", "")


def test_the_halves_stay_what_they_are() -> None:
    halves = {case.name: case.half for case in CASES}
    assert halves["huber"] == "development"
    assert halves["labels_shuffled"] == "held_out"


@pytest.mark.parametrize("half", ["development", "held_out"])
@pytest.mark.parametrize(("groups", "cases"), [(GROUPS, BROKEN), (CLEAN_GROUPS, CLEAN)], ids=["broken", "clean"])
def test_each_half_has_every_group(half: str, groups: tuple[str, ...], cases: list[Case]) -> None:
    assert {case.group for case in cases if case.half == half} == {case.group for case in cases} <= set(groups)
