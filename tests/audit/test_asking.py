"""`esper.sql`: rows of everything, of a run, of a run as it stood."""

from datetime import date
from pathlib import Path

import pytest

import esper
from esper.errors import LogError, RuleError, SettingsError
from esper.history.run_history import History
from esper.oona.directory import Directory
from tests.history.test_run_names import begun
from tests.synthetic import RUN, write_run

pytestmark = pytest.mark.whole

OTHER = type(RUN)("01900000-0000-7000-8000-0000000000ff")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two")
    write_run(Directory(path))
    write_run(Directory(path), run=OTHER, until_epoch=3, finish=False)
    return path


def test_a_question_sees_every_run(two_runs: Path) -> None:
    assert esper.sql("SELECT count(*) FROM runs", two_runs).rows() == [(2,)]


def test_a_question_about_a_run_sees_no_other(two_runs: Path) -> None:
    assert esper.sql(
        "SELECT run, (SELECT count(*) FROM settings WHERE run <> $run) FROM run_overview", two_runs, run="ff", parameters={"run": OTHER}
    ).rows() == [(OTHER, 0)]


def test_the_overview_names_a_run_as_its_user_does(tmp_path: Path) -> None:
    path = tmp_path / "named"
    begun(Directory(path, create=True), RUN, sealed=False, name="baseline", tags=("a", "b"))
    assert esper.sql("SELECT name, tags FROM run_overview", path).rows() == [("baseline", ["a", "b"])]


def test_a_question_about_an_epoch_sees_what_stood_when_it_was_over(two_runs: Path, history: History) -> None:
    state = history.at(epoch=5)
    rows = esper.sql("SELECT max(moment), max(epoch) FROM events WHERE fact IS NOT NULL", two_runs, run=RUN, epoch=5).rows()
    assert rows == [(state.moment, 5)]
    fates = esper.sql("SELECT count(*) FROM decision_fates WHERE fate = 'applied'", two_runs, run=RUN, epoch=5).rows()
    assert fates == [(state.control.counts.applied,)]


def test_a_question_about_a_moment_sees_nothing_after_it(two_runs: Path) -> None:
    for table in ("events", "decisions", "steps", "transitions", "decision_fates"):
        [(last,)] = esper.sql(f"SELECT max(moment) FROM {table}", two_runs, run=RUN, at=60).rows()  # noqa: S608
        assert last is None or int(str(last)) <= 60, table


def test_a_moment_needs_a_run_and_must_have_been_reached(two_runs: Path) -> None:
    with pytest.raises(RuleError, match="name it with --run"):
        esper.sql("SELECT 1", two_runs, at=3)
    with pytest.raises(RuleError, match="expected a moment from 0 to 233"):
        esper.sql("SELECT 1", two_runs, run=RUN, at=234)
    with pytest.raises(RuleError, match="expected an epoch from 0 to 14"):
        esper.sql("SELECT 1", two_runs, run=RUN, epoch=15)
    with pytest.raises(RuleError, match="got both"):
        esper.sql("SELECT 1", two_runs, run=RUN, at=1, epoch=1)


def test_what_is_written_next_is_in_the_next_answer(directory: Directory) -> None:
    write_run(directory, until_epoch=1, finish=False)
    assert esper.sql("SELECT count(*) FROM runs", directory.path).rows() == [(1,)]
    write_run(directory, run=OTHER, until_epoch=1, finish=False)
    assert esper.sql("SELECT count(*) FROM runs", directory.path).rows() == [(2,)]


def test_a_log_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="nowhere"):
        esper.sql("SELECT 1", tmp_path / "nowhere")


def test_a_limit_or_a_parameter_that_is_none_is_refused_in_a_line(two_runs: Path) -> None:
    with pytest.raises(SettingsError, match=r"setting esper\.sql\.time_s: expected a number greater than or equal to 0\.1, got 0"):
        esper.sql("SELECT 1", two_runs, time_s=0)
    with pytest.raises(RuleError, match=r"expected parameters that JSON has"):
        esper.sql("SELECT $d", two_runs, parameters={"d": date(2026, 3, 1)})  # type: ignore[dict-item]
