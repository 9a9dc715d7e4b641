"""A list of runs: what is new, what changed and what is gone shows; what is sealed is described once, by its mark."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.errors import UnknownRunError
from esper.events.envelope import RunId
from esper.history.run_list import RunList, RunSummary, began, summaries
from esper.oona.directory import Directory, new_run_id
from tests.synthetic import BEGAN, RUN, write_run

OTHER = RunId("01900000-0000-7000-8000-000000000002")
LATER = new_run_id(datetime(2026, 3, 2, tzinfo=UTC), bytes(10))


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    directory = Directory(tmp_path)
    write_run(directory)
    return directory


def test_lines_are_those_of_the_shell(directory: Directory) -> None:
    write_run(directory, run=OTHER, finish=False, until_epoch=2, telemetry=False)
    assert list(RunList(directory).lines()) == list(summaries(directory))


def test_a_log_that_comes_into_a_folder_that_was_listed_before_is_known_at_once(directory: Directory) -> None:
    runs = RunList(directory)
    (directory.path / OTHER).mkdir()
    assert [line.run for line in runs.lines()] == [RUN]
    with pytest.raises(UnknownRunError):
        runs.resolve(OTHER)
    (directory.path / OTHER / "run.sqlite").touch()
    assert [runs.resolve(ref) for ref in (OTHER, OTHER[-4:])] == [OTHER, OTHER]


def test_a_run_that_grew_is_described_anew(directory: Directory) -> None:
    runs = RunList(directory)
    with directory.create(OTHER):
        before = runs.line(OTHER)
    after = runs.line(OTHER)
    assert before is not None
    assert after is not None
    assert (before.standing, after.standing) == ("live", "interrupted")


def test_a_sealed_run_is_not_read_again(directory: Directory) -> None:
    runs = RunList(directory)
    first = runs.line(RUN)
    os.truncate(directory.path / RUN / "run.sqlite", 0)
    assert runs.line(RUN) is first


def test_a_run_without_a_log_is_none(directory: Directory) -> None:
    (directory.path / OTHER).mkdir()
    assert RunList(directory).line(OTHER) is None
    assert [line.run for line in RunList(directory).lines()] == [RUN]


def test_a_sealed_run_is_listed_from_its_mark_alone(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory)
    (tmp_path / RUN / "run.sqlite").write_bytes(b"no database")
    [one] = summaries(directory)
    assert one == RunSummary(RUN, "finished", "digits", BEGAN, 14, 14, 0.228509, 1030, None, sealed=True)


def test_an_interrupted_run_is_listed_from_its_log(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=5, finish=False)
    [one] = summaries(directory)
    assert (one.standing, one.task, one.epoch, one.epochs, one.validation_loss) == ("interrupted", "digits", 5, 14, 0.579688)


def test_a_run_that_is_being_written_is_live_and_names_the_process(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=2, finish=False)
    with directory.resume(RUN):
        [one] = summaries(directory)
    assert one.standing == "live"
    assert one.holder is not None


def test_a_run_that_says_nothing_yet_is_listed_with_what_is_unknown(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.create(LATER).close()
    [one] = summaries(directory)
    assert (one.standing, one.task, one.epochs, one.validation_loss, one.parameters) == ("interrupted", None, None, None, None)


def test_a_damaged_run_is_listed_with_its_problem_and_the_others_as_they_are(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory)
    write_run(directory, run=LATER, until_epoch=1, finish=False)
    (tmp_path / LATER / "run.sqlite").write_bytes(b"no database" * 20)
    damaged, whole = summaries(directory)
    assert (damaged.run, damaged.standing) == (LATER, "unreadable")
    assert "expected a run's SQLite file" in (damaged.problem or "")
    assert whole.standing == "finished"


def test_an_id_of_another_form_has_no_time() -> None:
    assert began(RunId("nissa-1")) is None
    assert began(RunId("9b2f4d1e-0000-4000-8000-000000000000")) is None
