"""What the doctor says about a machine and a log."""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.events.envelope import RunId
from esper.history.checks import examine
from esper.history.run_checks import Diagnosis
from esper.oona.contract import Position
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory, new_run_id
from esper.oona.file import OBSERVED_FILE, OBSERVED_MARK, RUN_FILE, SEAL_MARK
from esper.oona.lock import Lock
from esper.oona.observed import Observed
from esper.oona.writer import append_drafts
from tests.audit.compliance.finished import save_checkpoints
from tests.nissa.samples import anomaly
from tests.oona.processes import NOBODY, child, line, open_to_others
from tests.oona.samples import OTHER, draft, lose_from_index, steps
from tests.synthetic import BEGAN, RUN, write_run
from tests.trails import held, signed_off


def named(log: Path, name: str) -> Diagnosis:
    """The first answer about `name`: of a run, that about its log."""
    return answers(log, name)[0]


def answers(log: Path, name: str = "run 7c21ab") -> list[Diagnosis]:
    """Every answer about `name`."""
    return [check for check in examine(log) if check.name == name]


def test_a_sound_log_has_no_bad_answer(tmp_path: Path) -> None:
    finished(tmp_path)
    assert {check.verdict for check in examine(tmp_path)} == {"ok"}


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
    save_checkpoints(Directory(path), RUN)
    assert [check.verdict for check in answers(path)] == ["ok"]
    return path / RUN


def test_a_sealed_run_whose_end_was_taken_out_is_bad(tmp_path: Path) -> None:
    with closing(sqlite3.connect(finished(tmp_path) / RUN_FILE)) as connection, connection:
        connection.execute("DELETE FROM records WHERE row > 30")
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "expected records 30, as its records have it, in its mark" in check.answer) == ("bad", True)


def test_a_damaged_index_is_bad(tmp_path: Path) -> None:
    lose_from_index(finished(tmp_path) / RUN_FILE, "facts", "row", "fact <= 26")
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "the file is damaged: row 35 missing from index facts" in check.answer) == ("bad", True)


@pytest.mark.parametrize("mark", [b"\xff\xfe", b'{"summary": {"metrics": {"validation_loss": "low"}}}'])
def test_a_mark_that_is_none_is_bad(tmp_path: Path, mark: bytes) -> None:
    (finished(tmp_path) / SEAL_MARK).write_bytes(mark)
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, f"in its mark {tmp_path / RUN / SEAL_MARK}, got 'nothing'" in check.answer) == ("bad", True)


def test_an_archive_that_may_not_be_written_is_checked(tmp_path: Path) -> None:
    with Observed(finished(tmp_path), RUN) as observed:  # Not settled.
        observed.save([anomaly(RUN)])
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


@pytest.mark.parametrize("change", ["metrics.validation_loss", "task", "epochs", "parameters", "name", "tags"])
def test_a_summary_that_was_edited_is_found(tmp_path: Path, change: str) -> None:
    mark = finished(tmp_path) / SEAL_MARK
    edited = json.loads(mark.read_text())
    *outer, name = ("summary", *change.split("."))
    part = edited
    for key in outer:
        part = part[key]
    part[name] = ["better"]
    mark.write_text(json.dumps(edited))
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, f"expected {change.partition('.')[0]} " in check.answer) == ("bad", True)


def test_the_mark_of_a_run_that_has_not_finished_is_forged(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=3, finish=False)
    with Directory(tmp_path).resume(RUN) as log:
        log.seal()
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "expected a run that has finished" in check.answer) == ("bad", True)


def test_a_checkpoint_that_was_altered_is_bad(tmp_path: Path) -> None:
    tensors = finished(tmp_path) / "checkpoints" / "epoch-000008" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"0")
    assert [check.verdict for check in answers(tmp_path)] == ["ok", "bad"]
    assert "epoch-000008 is damaged, and resuming passes it over" in answers(tmp_path)[1].answer


def test_a_whole_checkpoint_in_the_place_of_another_is_bad(tmp_path: Path) -> None:
    place = finished(tmp_path) / "checkpoints"
    shutil.rmtree(place / "epoch-000008")
    shutil.copytree(place / "epoch-000012", place / "epoch-000008")
    assert "the log has another digest" in answers(tmp_path)[1].answer


def test_a_checkpoint_that_is_gone_or_was_left_is_named(tmp_path: Path) -> None:
    place = finished(tmp_path) / "checkpoints"
    (place / "epoch-000012").rename(place / ".epoch-000016.partial")
    gone, left = answers(tmp_path)[1:]
    assert (gone.verdict, gone.answer) == ("warning", f"1 checkpoint of 2 that its log keeps is gone from {place}: epoch-000012")
    assert (left.verdict, left.answer.startswith(f".epoch-000016.partial in {place} is not in the log")) == ("warning", True)


def test_a_checkpoint_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    place = finished(tmp_path / "runs") / "checkpoints" / "epoch-000008"
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    assert [check.verdict for check in answers(tmp_path / "runs")] == ["ok", "bad"]


EDITS = {
    "a record": "UPDATE derived SET data = CAST(replace(data, '9.0', '9.1') AS BLOB) WHERE row = 3",
    "its topic": "UPDATE derived SET topic = 'observability.trends' WHERE row = 3",
    "its time": "UPDATE derived SET time = time + 1 WHERE row = 3",
    "its id": "UPDATE derived SET id = 'other' WHERE row = 3",
    "a row in the middle": "DELETE FROM derived WHERE row = 3",
    "the last row": "DELETE FROM derived WHERE row = (SELECT max(row) FROM derived)",
    "every row": "DELETE FROM derived",
    "a row more": "INSERT INTO derived SELECT 99, 'other', topic, writer, moment, generation, incarnation, type, time, epoch, step, cause, "
    "trace, data FROM derived WHERE row = 1",
    "a time that is none": "UPDATE derived SET time = 9223372036854775807 WHERE row = 3",
    "a position": """UPDATE progress SET position = '{"run.sqlite":1}' WHERE name = 'derived'""",
    "a position that is none": "UPDATE progress SET position = 'x' WHERE name = 'state'",
    "no position": "DELETE FROM progress",
    "a part of the state": "UPDATE cells SET state = x'00' WHERE name = 'one'",
    "a part less": "DELETE FROM cells",
    "the end": "UPDATE meta SET value = '{}' WHERE key = 'end'",
    "no end": "DELETE FROM meta WHERE key = 'end'",
    "its run": "UPDATE meta SET value = 'other' WHERE key = 'run'",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_what_is_edited_in_an_observed_file_is_found(tmp_path: Path, edit: str) -> None:
    folder = finished(tmp_path)
    with Observed(folder, RUN) as observed:
        observed.save([anomaly(RUN, str(number)) for number in range(9)], Position.at(RUN_FILE, 7), {"one": b"1", "two": b"2"})
    assert [check.verdict for check in answers(tmp_path)] == ["ok"]
    with closing(sqlite3.connect(folder / OBSERVED_FILE)) as connection, connection:
        assert connection.execute(edit).rowcount > 0
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, OBSERVED_FILE in check.answer) == ("bad", True)


def test_an_observed_file_whose_mark_has_another_count_or_that_is_gone_is_bad(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    with Observed(folder, RUN) as observed:
        observed.save([anomaly(RUN, "1")])
        observed.seal()
    (folder / OBSERVED_MARK).write_text("2\n")
    assert "expected 1, the number of records beside it, got '2'" in named(tmp_path, "run 7c21ab").answer
    (folder / OBSERVED_FILE).unlink()
    assert "what people were told of the run is lost" in named(tmp_path, "run 7c21ab").answer


def test_entries_of_an_index_that_lead_nowhere_are_counted(tmp_path: Path) -> None:
    lose_from_index(finished(tmp_path) / RUN_FILE, "facts", "row", "1")
    check = named(tmp_path, "run 7c21ab")
    assert (check.verdict, "entries in index facts" in check.answer) == ("bad", True)


def test_what_a_run_leaves_that_is_killed_while_it_is_made_is_named(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / OTHER).mkdir()
    (tmp_path / OTHER / "lock").touch()
    (tmp_path / OTHER / "run.sqlite.new").touch()
    check = named(tmp_path, "run 000002")
    assert (check.verdict, "killed while it made the run; it may be removed" in check.answer) == ("warning", True)
    lock = Lock(tmp_path / OTHER / "lock", "another")
    assert not answers(tmp_path, "run 000002")
    lock.release()


def test_a_run_whose_log_is_gone_is_bad(tmp_path: Path) -> None:
    (finished(tmp_path) / RUN_FILE).unlink()
    assert [check.verdict for check in answers(tmp_path)] == ["bad"]
    (tmp_path / RUN / SEAL_MARK).unlink()
    assert [check.verdict for check in answers(tmp_path)] == ["bad"]


def test_a_copy_that_no_command_finds_is_named(tmp_path: Path) -> None:
    shutil.copytree(finished(tmp_path), tmp_path / f".{RUN}.copy")
    check = named(tmp_path, "run b.copy")
    assert (check.verdict, "no command finds it by that name" in check.answer) == ("warning", True)


def test_a_folder_of_the_users_is_no_run(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.txt").write_text("mine")
    assert {check.verdict for check in examine(tmp_path)} == {"ok"}


def test_a_machines_run_that_was_altered_is_found(tmp_path: Path) -> None:
    run = RunId("machine:here:2026-01-01")
    with Directory(tmp_path).create(run, "agent") as log:
        append_drafts(log, [draft(steps(number), number, step=number) for number in range(1, 21)])
    assert named(tmp_path, "machine runs").verdict == "ok"
    with closing(sqlite3.connect(tmp_path / run / RUN_FILE)) as connection, connection:
        connection.execute("UPDATE records SET step = step + 1 WHERE row = 20")
    assert named(tmp_path, "machine runs").verdict == "bad"
