"""What the doctor says about a machine and a log."""

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.events.envelope import RunId
from esper.history.checks import Diagnosis, examine
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory, new_run_id
from esper.oona.file import OBSERVED_FILE, RUN_FILE, SEAL_MARK
from esper.oona.observed import Observed
from tests.nissa.samples import anomaly
from tests.oona.processes import NOBODY, child, line, open_to_others
from tests.oona.samples import lose_from_index
from tests.synthetic import BEGAN, RUN, write_run
from tests.trails import held, signed_off


def named(log: Path, name: str) -> Diagnosis:
    """The one answer about `name`."""
    [found] = [check for check in examine(log) if check.name == name]
    return found


def test_a_sound_log_has_no_bad_answer(synthetic_log: Path) -> None:
    assert {check.verdict for check in examine(synthetic_log)} == {"ok"}


def test_torch_is_found_without_being_imported(synthetic_log: Path) -> None:
    before = "torch" in sys.modules
    assert named(synthetic_log, "torch").verdict == "ok"
    assert ("torch" in sys.modules) == before


def test_a_log_that_does_not_exist_yet_is_no_fault(tmp_path: Path) -> None:
    check = named(tmp_path / "runs", "log")
    assert (check.verdict, "the first run makes it" in check.answer) == ("ok", True)
    assert not (tmp_path / "runs").exists()


def test_a_file_where_the_log_should_be_is_bad(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert named(tmp_path / "runs", "log").verdict == "bad"


def test_the_trail_is_checked_as_a_whole(tmp_path: Path) -> None:
    append_to_trail(Directory(tmp_path), [held(), signed_off()], lambda: BEGAN)
    assert named(tmp_path, "trail") == Diagnosis("trail", "ok", "3 records, every number and chain is right")


def test_a_hold_that_was_altered_is_found(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    append_to_trail(directory, [held(until="2036-03-01")], lambda: BEGAN)
    (run,) = directory.names(hidden=True)
    with closing(sqlite3.connect(tmp_path / run / RUN_FILE)) as connection, connection:
        connection.execute("UPDATE records SET data = CAST(replace(data, '2036', '2006') AS BLOB) WHERE row = 1")
    check = named(tmp_path, "trail")
    assert (check.verdict, "expected chain" in check.answer) == ("bad", True)


def test_an_empty_log_has_no_runs(tmp_path: Path) -> None:
    assert named(tmp_path, "runs").answer == "none yet"


def test_a_flipped_bit_is_found_and_the_place_is_named(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=3, finish=False)
    with closing(sqlite3.connect(tmp_path / RUN / "run.sqlite")) as connection, connection:
        connection.execute("UPDATE records SET data = CAST(replace(data, '1.4', '1.3') AS BLOB) WHERE type = 'esper.epoch.completed.v1'")
    check = named(tmp_path, "run 7c21ab")
    assert check.verdict == "bad"
    assert "topic system.events.epoch, sequence 1" in check.answer
    assert "restore the file" in check.answer


def test_an_observed_file_that_is_damaged_is_bad_and_may_be_removed(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=3, finish=False)
    with Observed(tmp_path / RUN, RUN) as observed:
        observed.save([anomaly(RUN, str(number)) for number in range(200)])
    file = tmp_path / RUN / OBSERVED_FILE
    file.write_bytes(file.read_bytes()[:-4096] + os.urandom(4096))
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, f"{file}: the file is damaged" in check.answer, "or remove it" in check.answer) == ("bad", True, True)


def test_a_run_that_was_copied_under_another_name_is_bad(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    shutil.copytree(tmp_path / RUN, tmp_path / "backup")
    check = named(tmp_path, "run backup")
    assert (check.verdict, f"expected run backup in {tmp_path / 'backup'}, got {RUN}" in check.answer) == ("bad", True)


def test_a_file_that_was_cut_off_is_bad(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory)
    path = tmp_path / RUN / "run.sqlite"
    path.write_bytes(path.read_bytes()[:20_000])
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "damaged" in check.answer) == ("bad", True)


def finished(path: Path) -> Path:
    """The folder of a sealed run in the log at `path`."""
    write_run(Directory(path))
    assert named(path, "run 7c21ab").verdict == "ok"
    return path / RUN


def test_a_sealed_run_whose_end_was_taken_out_is_bad(tmp_path: Path) -> None:
    with closing(sqlite3.connect(finished(tmp_path) / RUN_FILE)) as connection, connection:
        connection.execute("DELETE FROM records WHERE row > 30")
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "expected records 30, as its records have it, in its mark" in check.answer) == ("bad", True)


def test_a_damaged_index_is_bad(tmp_path: Path) -> None:
    lose_from_index(finished(tmp_path) / RUN_FILE, 26)
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "the file is damaged: row 35 missing from index facts" in check.answer) == ("bad", True)


@pytest.mark.parametrize("mark", [b"\xff\xfe", b'{"summary": {"metrics": {"validation_loss": "low"}}}'])
def test_a_mark_that_is_none_is_bad(tmp_path: Path, mark: bytes) -> None:
    (finished(tmp_path) / SEAL_MARK).write_bytes(mark)
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, f"in its mark {tmp_path / RUN / SEAL_MARK}, got 'nothing'" in check.answer) == ("bad", True)


def test_an_archive_that_may_not_be_written_is_checked(tmp_path: Path) -> None:
    finished(tmp_path)
    private = new_run_id(datetime(2000, 1, 1, tzinfo=UTC), bytes(10))
    shutil.copytree(tmp_path / RUN, tmp_path / private)
    open_to_others(tmp_path)
    (tmp_path / private).chmod(0o700 if os.getuid() == 0 else 0)
    tmp_path.chmod(0o555)
    with child("diagnose", tmp_path, user=NOBODY if os.getuid() == 0 else None) as process:
        said = [line(process) for _ in range(3)]
    tmp_path.chmod(0o755)
    (tmp_path / private).chmod(0o755)
    assert said[0].startswith(f"warning: {tmp_path} cannot be written: Permission denied; its runs can be read")
    assert said[1].endswith("every number and chain is right; finished")
    assert said[2] == f"bad: cannot open {tmp_path / private}: Permission denied"


def test_an_interrupted_run_comes_with_the_command_that_resumes_it(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    check = named(tmp_path, "run 7c21ab")
    assert check.verdict == "warning"
    assert check.answer.endswith(f"interrupted in epoch 3: esper resume 7c21ab --log {tmp_path}")


def test_a_finished_run_that_is_not_sealed_comes_with_the_command_that_seals_it(tmp_path: Path) -> None:
    (finished(tmp_path) / SEAL_MARK).unlink()
    check = named(tmp_path, "run 7c21ab")
    assert check.verdict == "warning"
    assert check.answer.endswith(f"finished but not sealed, which an observer does: esper observe --log {tmp_path}")


def test_a_live_run_names_the_process_that_writes_it(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, until_epoch=1, finish=False)
    with directory.resume(RUN):
        check = named(tmp_path, "run 7c21ab")
    assert check.verdict == "ok"
    assert "writes it" in check.answer


def test_runs_that_were_not_checked_are_unknown_never_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.history.checks.NEWEST", 0)
    write_run(Directory(tmp_path), until_epoch=1, finish=False)
    check = named(tmp_path, "runs")
    assert (check.verdict, check.answer) == ("unknown", "0 of 1 were checked, the newest: --all checks every one")


def test_records_that_an_observer_has_seen_are_missed_at_the_end_of_a_log(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    with Directory(tmp_path).open(RUN) as log, Observed(tmp_path / RUN, RUN) as observed:
        observed.save([], log.end())
    assert named(tmp_path, "run 7c21ab").verdict == "warning"
    with closing(sqlite3.connect(tmp_path / RUN / RUN_FILE)) as connection, connection:
        connection.execute("DELETE FROM records WHERE row > (SELECT max(row) - 3 FROM records)")
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "ends 3 records before the one that was observed last" in check.answer) == ("bad", True)


def test_an_empty_log_beside_checkpoints_has_lost_its_records(tmp_path: Path) -> None:
    Directory(tmp_path).create(RUN).close()
    assert named(tmp_path, "run 7c21ab").verdict == "warning"
    (tmp_path / RUN / "checkpoints" / "epoch-000001").mkdir(parents=True)
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "got an empty log" in check.answer) == ("bad", True)


def test_the_observed_file_of_another_run_is_found(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3)
    (tmp_path / "other").mkdir()
    Observed(tmp_path / "other", RunId("other")).close()
    shutil.copy(tmp_path / "other" / OBSERVED_FILE, tmp_path / RUN)
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "got that of run other" in check.answer) == ("bad", True)
