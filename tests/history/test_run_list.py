"""A list of runs: what is new, what changed and what is gone shows; what is sealed is described once, by its mark."""

import math
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.errors import UnknownRunError
from esper.events.envelope import RunId
from esper.history.run_list import RunList, RunSummary, _kept_form, began, summaries
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


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    """Sixty runs that no process writes and that did not end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = Directory(tmp_path / "runs", create=True)
    write_run(directory, until_epoch=5, finish=False)
    for number in range(59):
        shutil.copytree(directory.path / RUN, directory.path / f"01900000-0000-7000-9000-{number:012}")
    return directory


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what a process reads")
def test_runs_that_no_process_writes_are_opened_once(interrupted: Directory) -> None:
    def read_bytes(lines: list[RunSummary]) -> int:
        before = int(Path("/proc/self/io").read_text().split()[1])
        lines += summaries(interrupted)
        return int(Path("/proc/self/io").read_text().split()[1]) - before

    first: list[RunSummary] = []
    second: list[RunSummary] = []
    assert read_bytes(first) > 5 * read_bytes(second)
    assert first == second
    assert len(second) == 60


def test_a_run_that_was_edited_goes_on_or_was_exchanged_is_read_again(interrupted: Directory) -> None:
    one, edited, exchanged, *_ = [line.run for line in summaries(interrupted)]
    file = interrupted.path / edited / "run.sqlite"
    times = file.stat()
    with file.open("r+b") as opened:
        opened.write(b"no database")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    (interrupted.path / exchanged / "run.sqlite").unlink()
    write_run(interrupted, run=RunId("01900000-0000-7000-9000-999999999999"), until_epoch=2, finish=False)
    (interrupted.path / "01900000-0000-7000-9000-999999999999").rename(interrupted.path / "aside")
    shutil.copy2(interrupted.path / "aside" / "run.sqlite", interrupted.path / exchanged / "run.sqlite")
    os.utime(interrupted.path / exchanged / "run.sqlite", ns=(times.st_atime_ns, times.st_mtime_ns))
    with interrupted.resume(RUN):
        lines = {line.run: line for line in summaries(interrupted)}
    assert (lines[one].epoch, lines[exchanged].epoch) == (5, 2)
    assert (lines[edited].standing, lines[RUN].standing) == ("unreadable", "live")


@pytest.mark.parametrize("content", [b"", b"[1, {", b"[2, {}]", b'[1, {"x": [[], {}]}]'])
def test_lines_that_cannot_be_read_are_made_again(interrupted: Directory, tmp_path: Path, content: bytes) -> None:
    before = list(summaries(interrupted))
    [kept] = (tmp_path / "cache").rglob("*.json")
    whole = kept.read_bytes()
    kept.write_bytes(content)
    assert list(summaries(interrupted)) == before
    assert kept.read_bytes() == whole


def test_few_runs_are_not_kept(directory: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_run(directory, run=OTHER, finish=False, until_epoch=2, telemetry=False)
    assert len(list(summaries(directory))) == 2
    assert not (tmp_path / "cache").exists()


def test_a_loss_that_is_no_number_is_kept_as_one() -> None:
    kept = _kept_form().dump_json((1, {RUN: ((), RunSummary(RUN, "failed", validation_loss=math.nan))}))
    loss = _kept_form().validate_json(kept)[1][RUN][1].validation_loss
    assert loss is not None
    assert math.isnan(loss)


def test_of_runs_that_were_removed_nothing_is_kept(interrupted: Directory, tmp_path: Path) -> None:
    lines = list(summaries(interrupted))
    [kept] = (tmp_path / "cache").rglob("*.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    shutil.rmtree(interrupted.path / lines[0].run)
    list(summaries(interrupted))
    assert lines[0].run not in kept.read_text()
    for line in lines[1:20]:
        shutil.rmtree(interrupted.path / line.run)
    list(summaries(interrupted))
    assert not kept.exists()
