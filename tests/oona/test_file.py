"""Sealing: a finished run becomes one file that never changes, marked last, readable without locks."""

import json
import math
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from esper.errors import LogError
from esper.oona import file
from esper.oona.contract import START
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE, SEAL_MARK, sealed_ago_s, unchanged
from tests.oona.processes import NOBODY, child, line, open_to_others
from tests.oona.samples import BEGAN, RUN, ended, everything, mixed

RECORDS = ended(40)
FINISHED = {"status": "finished", "task": None, "epochs": 0, "parameters": 7, "metrics": {"loss": 0.25}}


def sealed(directory: Directory) -> Path:
    with directory.create(RUN) as log:
        log.append(RECORDS)
        assert log.seal()
    return directory.path / RUN


def test_a_sealed_run_is_one_file_and_a_mark(directory: Directory) -> None:
    folder = sealed(directory)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", RUN_FILE, "sealed"]
    mark = json.loads((folder / SEAL_MARK).read_text())
    assert (mark["run"], mark["records"], mark["moment"]) == (RUN, 40, RECORDS[-1].moment)
    assert mark["summary"] == FINISHED


def test_a_sealed_run_is_read_in_pages(directory: Directory) -> None:
    sealed(directory)
    with directory.open(RUN) as log:
        first = log.read(limit=30)
        assert first.records + log.read(first.position).records == RECORDS
        assert not log.wait(log.end(), 0.01)
        assert log.wait(START, 60.0)


def test_a_sealed_run_is_read_where_nothing_may_be_written(directory: Directory, tmp_path: Path) -> None:
    folder = sealed(directory)
    open_to_others(tmp_path)
    before = sorted(folder.iterdir())
    with child("read", directory.path, user=NOBODY if os.getuid() == 0 else None) as process:
        assert line(process) == "1"
    assert sorted(folder.iterdir()) == before


def test_a_sealed_run_that_was_cut_off_is_not_read(directory: Directory) -> None:
    folder = sealed(directory)
    with closing(sqlite3.connect(folder / RUN_FILE)) as connection, connection:
        connection.execute("DELETE FROM records WHERE row > 30")
    with directory.open(RUN) as log:
        for reading in (log.read, log.last):
            with pytest.raises(LogError, match="expected 40 records, as the run's mark says, got 30"):
                reading()
        with pytest.raises(LogError, match="expected records 30, as its records have it, in its mark"):
            log.heads()


def test_a_file_that_grows_while_it_is_looked_at_is_not_called_damaged(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sealed(directory) / RUN_FILE

    class Growing(apsw.VFSFile):
        def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name.
            with path.open("r+b") as opened:  # A page more, as by another process's checkpoint.
                first = opened.read(32)
                page_bytes, pages = int.from_bytes(first[16:18], "big"), int.from_bytes(first[28:32], "big")
                opened.truncate((pages + 1) * page_bytes)
                opened.seek(28)
                opened.write((pages + 1).to_bytes(4, "big"))
            return super().xRead(amount, offset)

    monkeypatch.setattr(apsw, "VFSFile", Growing)
    file.open_for_reading(path, immutable=True).close()


def test_a_sealed_run_is_not_resumed(directory: Directory) -> None:
    sealed(directory)
    with pytest.raises(LogError, match="is finished and sealed"):
        directory.resume(RUN)


def test_a_reader_that_read_the_end_does_not_keep_the_run_from_being_sealed(directory: Directory) -> None:
    with directory.create(RUN) as log, directory.open(RUN) as reader:
        log.append(RECORDS[:5])
        assert len(everything(reader)) == 5
        log.append(RECORDS[5:])
        assert everything(reader) == RECORDS
        assert log.seal()
        assert everything(reader) == RECORDS


def test_a_reader_that_holds_on_leaves_the_sealing_to_the_next(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_LEAVE_WAL_S", 0.05)
    with directory.create(RUN) as log:
        log.append(RECORDS)
        with child("read", directory.path) as reader:
            assert line(reader) == "1"
            assert not directory.seal_finished(RUN)
            assert not log.seal()
    assert not directory.runs()[0].sealed
    assert directory.seal_finished(RUN)
    assert directory.runs()[0].summary == FINISHED
    with directory.open(RUN) as after:
        assert everything(after) == RECORDS


def test_a_run_killed_before_its_seal_is_sealed_with_what_it_said(directory: Directory) -> None:
    with child("finish", directory.path) as process:
        assert line(process) == "finished"
        assert not directory.seal_finished(RUN)
    assert directory.seal_finished(RUN)
    assert directory.seal_finished(RUN)
    assert directory.runs()[0].summary == FINISHED


def test_a_run_that_did_not_finish_is_not_sealed(directory: Directory) -> None:
    with directory.create(RUN) as log:
        log.append(mixed(10))
    assert not directory.seal_finished(RUN)
    assert not directory.runs()[0].sealed


def test_what_was_read_while_the_mark_changed_is_not_trusted(directory: Directory) -> None:
    folder = sealed(directory)
    with pytest.raises(LogError, match="was unsealed while it was read"), unchanged(folder):
        (folder / SEAL_MARK).write_text("{}")


@pytest.mark.parametrize("bytes_", [b"half a ma", b"\xff\xfe", b"[1]", b'{"summary": 7, "records": "many", "ended": {}}'])
def test_a_mark_that_cannot_be_read_hides_no_run(directory: Directory, bytes_: bytes) -> None:
    folder = sealed(directory)
    (folder / SEAL_MARK).write_bytes(bytes_)
    assert sealed_ago_s(folder, BEGAN) == math.inf
    with directory.open(RUN) as log:
        assert everything(log) == RECORDS
        with pytest.raises(LogError, match=rf"expected .*, as its records have it, in its mark {folder / SEAL_MARK}, got "):
            log.heads()
    (entry,) = directory.runs()
    assert (entry.sealed, entry.summary) == (True, None)
