"""A list of runs."""

from datetime import UTC, datetime
from pathlib import Path

from esper.events.envelope import RunId
from esper.history.catalog import Listed, began, listed
from esper.oona.directory import Directory, new_run_id
from tests.synthetic import BEGAN, RUN, write_run

LATER = new_run_id(datetime(2026, 3, 2, tzinfo=UTC), bytes(10))


def test_a_sealed_run_is_listed_from_its_mark_alone(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory)
    (tmp_path / RUN / "run.sqlite").write_bytes(b"no database")
    [one] = listed(directory)
    assert one == Listed(RUN, "finished", "digits", BEGAN, 14, 14, 0.228509, 1030, None, sealed=True)


def test_an_interrupted_run_is_listed_from_its_log(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=5, finish=False)
    [one] = listed(directory)
    assert (one.standing, one.task, one.epoch, one.epochs, one.validation_loss) == ("interrupted", "digits", 5, 14, 0.579688)


def test_a_run_that_is_being_written_is_live_and_names_the_process(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=2, finish=False)
    with directory.resume(RUN):
        [one] = listed(directory)
    assert one.standing == "live"
    assert one.holder is not None


def test_a_run_that_says_nothing_yet_is_listed_with_what_is_unknown(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.create(LATER).close()
    [one] = listed(directory)
    assert (one.standing, one.task, one.epochs, one.validation_loss, one.parameters) == ("interrupted", None, None, None, None)


def test_a_damaged_run_is_listed_with_its_problem_and_the_others_as_they_are(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory)
    write_run(directory, run=LATER, until_epoch=1, finish=False)
    (tmp_path / LATER / "run.sqlite").write_bytes(b"no database" * 20)
    damaged, whole = listed(directory)
    assert (damaged.run, damaged.standing) == (LATER, "unreadable")
    assert "expected a run's SQLite file" in (damaged.problem or "")
    assert whole.standing == "finished"


def test_an_id_of_another_form_has_no_time() -> None:
    assert began(RunId("nissa-1")) is None
    assert began(RunId("9b2f4d1e-0000-4000-8000-000000000000")) is None
