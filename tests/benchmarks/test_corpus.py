"""The manifest of the corpus: each kind has what it must, and is of the half that its package says."""

import multiprocessing
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.corpus import BROKEN, CASES, CAUSES, CLEAN, CLEAN_GROUPS, GROUPS, Case
from benchmarks.corpus import held_out as held_out_half
from benchmarks.corpus.case import Struck
from esper.events import codec, topics
from esper.events.kinds.run import RunFailed
from esper.events.kinds.telemetry import StepsMeasured
from esper.oona.directory import Directory


def test_there_are_many_kinds_of_both_sorts() -> None:
    assert len(CLEAN) >= 60
    assert len(BROKEN) >= 60
    assert sum(case.name.startswith("silent_") for case in BROKEN) >= 10


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


def test_the_kinds_of_one_package_are_held_out_and_no_others() -> None:
    held_out = {case.name for case in (*held_out_half.CLEAN, *held_out_half.BROKEN)}
    assert {case.name for case in CASES if case.half == "held_out"} == held_out
    assert sum(case.half == "held_out" for case in CLEAN) >= 35
    assert sum(case.half == "held_out" for case in BROKEN) >= 45


@pytest.mark.parametrize("half", ["development", "held_out"])
@pytest.mark.parametrize(("groups", "cases"), [(GROUPS, BROKEN), (CLEAN_GROUPS, CLEAN)], ids=["broken", "clean"])
def test_each_half_has_every_group(half: str, groups: tuple[str, ...], cases: tuple[Case, ...]) -> None:
    assert {case.group for case in cases if case.half == half} == set(groups)


def _few_steps(case: Case, folder: Path) -> None:
    """Trains a few steps of it, in which a fault that comes later has begun."""
    training = case.training(0)
    if isinstance(training.train, Struck):
        training.train.at = min(training.train.at, 2)
    replace(training, epochs=min(training.epochs, 12), options={**training.options, "epoch_steps": 2}).fit(folder, 0)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_kind_trains_and_no_error_of_code_but_that_of_its_fault_ends_it(tmp_path: Path, case: Case) -> None:
    child = multiprocessing.get_context("fork").Process(target=_few_steps, args=(case, tmp_path))
    child.start()
    child.join()
    directory = Directory(tmp_path)
    with directory.open(directory.names()[0]) as log:
        events = [codec.decode(record) for record in log.read(limit=100_000, topics=frozenset((topics.RUN, topics.STEPS))).records]
    failures = {event.kind for event in events if isinstance(event, RunFailed)}
    assert any(isinstance(event, StepsMeasured) for event in events)
    assert failures <= ({"error"} if case.cause == "process" else {"rollbacks"} if case in BROKEN else set())
