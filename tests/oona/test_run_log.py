"""The log on disk: what it survives, what it refuses, and with which words."""

import os
import shutil
import threading
from pathlib import Path

import apsw
import pytest

from esper.errors import LogError, RuleError
from esper.events import topics
from esper.events.envelope import Record
from esper.events.kinds.telemetry import Heartbeat
from esper.events.topics import FACTS
from esper.oona.contract import START, records_of
from esper.oona.directory import Directory
from esper.oona.file import _FORMAT, RUN_FILE, WRITER_LOCK
from esper.oona.run_log import RunLog
from esper.oona.writer import append_drafts
from tests.oona.processes import NOBODY, child, line, open_to_others
from tests.oona.samples import RUN, draft, everything, finished, lose_from_index, mixed, steps

RECORDS = mixed(300)


@pytest.fixture
def closed(directory: Directory) -> Path:
    """The file of a run of 300 records that nobody has open."""
    with directory.create(RUN) as log:
        log.append(RECORDS[:200])
        log.append(RECORDS[200:])
    return directory.path / RUN / RUN_FILE


def alter(path: Path, *statements: str) -> None:
    connection = apsw.Connection(os.fspath(path))
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_a_closed_run_is_read_again(directory: Directory, closed: Path) -> None:
    with directory.open(RUN) as log:
        assert everything(log) == RECORDS
        assert (log.run, log.writer, log.path) == (RUN, "trainer", closed.parent)


@pytest.mark.usefixtures("closed")
def test_a_resumed_run_goes_on(directory: Directory) -> None:
    with directory.resume(RUN) as log:
        heads = log.heads()
        assert heads.moment == RECORDS[-1].moment
        log.append(mixed(310)[300:])
    with directory.open(RUN) as log:
        assert everything(log) == mixed(310)


def test_the_file_says_what_it_is(closed: Path) -> None:
    connection = apsw.Connection(os.fspath(closed), flags=apsw.SQLITE_OPEN_READONLY)
    meta = {str(key): value for key, value in connection.execute("SELECT key, value FROM meta")}
    assert {name: meta[name] for name in ("run", "writer", "format")} == {"run": RUN, "writer": "trainer", "format": str(_FORMAT)}
    assert connection.pragma("user_version") == _FORMAT
    assert connection.execute("SELECT data ->> '$.site' FROM records WHERE topic = ? LIMIT 1", (topics.COMMANDS,)).get == "fc"
    connection.close()


def test_a_reader_sees_what_was_appended_while_it_was_open(directory: Directory) -> None:
    with directory.create(RUN) as log, directory.open(RUN) as reader:
        log.append(RECORDS[:10])
        assert everything(reader) == RECORDS[:10]
        log.append(RECORDS[10:20])
        assert everything(reader) == RECORDS[:20]
        assert reader.heads().moment == log.heads().moment


def test_a_reader_may_not_write(directory: Directory) -> None:
    with directory.create(RUN), directory.open(RUN) as reader, pytest.raises(RuleError, match="opened for reading"):
        reader.append(RECORDS[:1])


def test_a_reader_is_woken_by_the_writer(directory: Directory) -> None:
    with directory.create(RUN) as log, directory.open(RUN) as reader:
        thread = threading.Thread(target=log.append, args=(RECORDS[:1],))
        thread.start()
        assert reader.wait(START, 60.0)
        thread.join()


def test_a_closed_log_takes_nothing(directory: Directory) -> None:
    log = directory.create(RUN)
    log.close()
    log.close()
    with pytest.raises(LogError, match="the log is closed"):
        log.append(RECORDS[:1])


def test_a_record_with_an_id_of_its_own_is_refused(directory: Directory) -> None:
    with directory.create(RUN) as log, pytest.raises(RuleError, match="expected id"):
        log.append((RECORDS[0]._replace(id=RECORDS[1].id),))


def test_a_run_is_created_once(directory: Directory, closed: Path) -> None:
    with pytest.raises(LogError, match="resume it instead") as raised:
        directory.create(RUN)
    assert str(closed) in str(raised.value)


def test_a_run_and_the_folders_above_it_are_on_disk_once_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[Path] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").resolve())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    log = tmp_path / "new" / "log"
    Directory(log, create=True).create(RUN).close()
    assert {tmp_path, tmp_path / "new", log, log / RUN} <= synced


@pytest.mark.parametrize("kept", [0, 50, 4096, 4096 * 5, 4096 * 20 + 100])
def test_a_file_cut_off_is_refused(directory: Directory, closed: Path, kept: int) -> None:
    os.truncate(closed, kept)
    for opening in (directory.open, directory.resume):
        with pytest.raises(LogError) as raised:
            opening(RUN)
        assert str(closed) in str(raised.value)


def test_a_file_of_another_kind_is_refused(directory: Directory, closed: Path) -> None:
    closed.write_bytes(b"PK\x03\x04" * 2000)
    for opening in (directory.open, directory.resume):
        with pytest.raises(LogError, match="expected a run's SQLite file") as raised:
            opening(RUN)
        assert str(closed) in str(raised.value)


def test_somebody_elses_database_is_refused(directory: Directory, closed: Path) -> None:
    alter(closed, "PRAGMA application_id = 7")
    with pytest.raises(LogError, match=r"expected application id 0x45737072 \(Esper\), got 0x7"):
        directory.open(RUN)


def test_a_newer_format_is_refused(directory: Directory, closed: Path) -> None:
    alter(closed, f"PRAGMA user_version = {_FORMAT + 1}")
    for opening in (directory.open, directory.resume):
        with pytest.raises(LogError, match="written by a newer Esper") as raised:
            opening(RUN)
        assert str(closed) in str(raised.value)


def test_a_payload_that_was_edited_breaks_the_chain(directory: Directory, closed: Path) -> None:
    alter(closed, "UPDATE records SET data = cast(replace(data, '0.5', '0.4') AS BLOB) WHERE type LIKE 'esper.steps%' AND sequence = 50")
    with pytest.raises(LogError, match=rf"topic {topics.STEPS}, sequence 50, moment \d+: expected chain"):
        directory.resume(RUN)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE records SET fact = NULL WHERE fact = 3",
        "UPDATE records SET trace = '00-evil' WHERE moment = 6",
        "UPDATE records SET incarnation = 7 WHERE moment >= 6",
    ],
)
def test_no_column_can_be_changed_unseen(directory: Directory, closed: Path, change: str) -> None:
    alter(closed, change)
    with directory.open(RUN) as log, pytest.raises(LogError, match="moment 6: expected chain"):
        log.heads()
    with pytest.raises(LogError, match="moment 6: expected chain"):
        directory.resume(RUN)


def test_a_record_that_was_taken_out_is_missed(directory: Directory, closed: Path) -> None:
    alter(closed, "DELETE FROM records WHERE row = 100")
    with pytest.raises(LogError, match="expected"):
        directory.resume(RUN)


def test_the_end_of_a_topic_that_was_cut_off_shows_in_the_tails(directory: Directory) -> None:
    with directory.create(RUN) as log:
        log.append(mixed(14))
        missing = log.read().records[-1]
        end = finished(log.heads().tails())
    assert missing.type == Heartbeat.KIND  # Without a moment: nothing else counts it.
    alter(directory.path / RUN / RUN_FILE, "DELETE FROM records WHERE row = 14")
    (directory.path / RUN / WRITER_LOCK).unlink()
    with directory.resume(RUN) as log:
        append_drafts(log, [draft(end, log.heads().moment + 1, step=20)])
    with directory.open(RUN) as log, pytest.raises(LogError, match=rf"expected before it topic {Heartbeat.TOPIC} to end with sequence 2"):
        log.heads()


@pytest.mark.parametrize("chosen", [FACTS, frozenset({topics.COMMANDS})])
def test_facts_that_the_index_lacks_are_missed_with_an_error(directory: Directory, closed: Path, chosen: frozenset[str]) -> None:
    lose_from_index(closed, "facts", "row", "fact <= 26")
    with directory.open(RUN) as log:
        with pytest.raises(LogError, match=r"every fact up to the last one's number, 104, got 26") as raised:
            log.read(topics=chosen)
        assert str(closed) in str(raised.value)
        with pytest.raises(LogError, match="got 26"):
            log.last(1, chosen)
        with pytest.raises(LogError, match="the file is damaged"):
            log.heads()
        assert everything(log) == RECORDS


def test_a_fact_that_was_taken_out_is_missed_with_an_error(directory: Directory, closed: Path) -> None:
    alter(closed, "DELETE FROM records WHERE fact = 50")
    with directory.open(RUN) as log, pytest.raises(LogError, match="every fact up to the last one's number, 104, got 103"):
        log.read(topics=FACTS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "DELETE FROM records WHERE type LIKE 'esper.steps%' AND sequence = 50",
            rf"topic {topics.STEPS}, .*: expected sequence 50, got 51",
        ),
        ("UPDATE records SET fact = NULL WHERE fact = 50", r"expected a fact's number, got none; the log is damaged"),
    ],
)
def test_a_reader_of_everything_meets_no_hole_unseen(directory: Directory, closed: Path, change: str, said: str) -> None:
    alter(closed, change)
    with directory.open(RUN) as log, pytest.raises(LogError, match=said):
        list(records_of(log, None))


def test_the_last_fact_without_its_number_is_missed_with_an_error(directory: Directory, closed: Path) -> None:
    alter(closed, "UPDATE records SET fact = NULL WHERE fact = 104")
    with directory.open(RUN) as log, pytest.raises(LogError, match="every fact up to the last one's number, 0, got 103"):
        log.read(topics=FACTS)


@pytest.mark.parametrize("kept", ["sequence < 10", "topic = 'telemetry.training.steps'"])
def test_telemetry_that_the_index_lacks_is_missed_with_an_error(directory: Directory, closed: Path, kept: str) -> None:
    lose_from_index(closed, "telemetry", "topic", f"fact IS NULL AND {kept}")
    with directory.open(RUN) as log:
        for chosen in (frozenset({topics.HEARTBEAT}), frozenset({topics.RUN, topics.STEPS})):
            with pytest.raises(LogError, match=r"expected its index to lead to 196 records of telemetry, got"):
                log.last(1, chosen)
        assert log.read(topics=FACTS).records == tuple(record for record in RECORDS if record.topic in FACTS)


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what a process reads")
@pytest.mark.parametrize("sealed", [False, True])
def test_records_of_a_rare_topic_are_found_without_a_look_at_the_others(directory: Directory, *, sealed: bool) -> None:
    with directory.create(RUN) as log:
        for first in range(0, 20_000, 1000):
            append_drafts(log, [draft(steps(number), number + 1, step=number) for number in range(first, first + 1000)])
        append_drafts(log, [draft(Heartbeat(idle_s=0.5, doing="step"), None), draft(finished(), 20_001, step=20_001)])
        if sealed:
            log.seal()

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    whole = (directory.path / RUN / RUN_FILE).stat().st_size
    for chosen, found in ((frozenset({topics.HEARTBEAT}), 1), (frozenset({topics.SEED_HEALTH, topics.RUN}), 1)):
        with directory.open(RUN) as log:
            before = read_bytes()
            assert len(log.last(10, chosen)) == len(log.read(topics=chosen).records) == found
            assert read_bytes() - before < whole / 4


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the system does not count what a process reads")
def test_a_page_of_a_file_without_the_index_of_telemetry_ends_where_it_is_full(directory: Directory) -> None:
    with directory.create(RUN) as log:
        for first in range(0, 20_000, 1000):
            append_drafts(log, [draft(steps(number), number + 1, step=number) for number in range(first, first + 1000)])
        append_drafts(log, [draft(Heartbeat(idle_s=0.5, doing="step"), None), draft(finished(), 20_001, step=20_001)])
    path = directory.path / RUN / RUN_FILE
    alter(path, "DROP INDEX telemetry", "PRAGMA user_version = 1")

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    with directory.open(RUN) as log:
        before = read_bytes()
        assert len(log.read(limit=10, topics=frozenset({topics.STEPS, topics.HEARTBEAT})).records) == 10
        assert read_bytes() - before < path.stat().st_size / 4


def test_a_file_that_has_no_index_of_telemetry_yet_is_read_and_goes_on(directory: Directory, closed: Path) -> None:
    alter(closed, "DROP INDEX telemetry", "PRAGMA user_version = 1")
    with directory.resume(RUN) as log:
        log.append(mixed(310)[300:])
    with directory.open(RUN) as log:
        chosen = frozenset({topics.STEPS, topics.HEARTBEAT})
        assert everything(log, chosen) == tuple(record for record in mixed(310) if record.topic in chosen)


def test_bits_flipped_anywhere_are_found_or_harm_nothing(directory: Directory, closed: Path) -> None:
    whole = closed.read_bytes()
    for place in range(37, len(whole), len(whole) // 60):
        closed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        for leftover in ("-wal", "-shm"):
            closed.with_name(RUN_FILE + leftover).unlink(missing_ok=True)
        found = resumed(directory)
        assert found == RECORDS or (isinstance(found, LogError) and str(closed) in str(found))


def resumed(directory: Directory) -> tuple[Record, ...] | LogError:
    try:
        with directory.resume(RUN) as log:
            return everything(log)
    except LogError as error:
        return error


def test_a_missing_run_is_refused(directory: Directory) -> None:
    with pytest.raises(LogError, match="expected the log of run"):
        directory.open(RUN)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="Not a directory") as raised:
        Directory(tmp_path / "file" / "log", create=True)
    assert str(tmp_path / "file") in str(raised.value)


@pytest.mark.whole
@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_place_of_somebody_else_is_refused(tmp_path: Path) -> None:
    open_to_others(tmp_path)
    with child("create", tmp_path, user=NOBODY) as process:
        said = line(process)
    assert said.startswith("LogError:")
    assert str(tmp_path) in said
    assert "not writable" in said


@pytest.mark.whole
@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_file_that_may_not_be_written_is_refused(directory: Directory, closed: Path) -> None:
    open_to_others(directory.path)
    with child("resume", directory.path, user=NOBODY) as process:
        said = line(process)
    assert said.startswith("LogError:")
    assert str(closed.parent) in said


@pytest.mark.whole
@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
@pytest.mark.usefixtures("closed")
def test_an_unsealed_run_is_read_where_nothing_may_be_written(directory: Directory) -> None:
    open_to_others(directory.path)
    with child("read", directory.path, user=NOBODY) as process:
        assert line(process) == "1"


def test_a_run_written_elsewhere_is_refused_with_the_pid(directory: Directory) -> None:
    with child("hold", directory.path) as process:
        assert line(process) == "held"
        with pytest.raises(LogError, match=f"is being written by process {process.pid} "):
            directory.resume(RUN)
        (entry,) = directory.runs()
        assert (entry.live, entry.holder) == (True, process.pid)
    assert not directory.runs()[0].live


def test_a_forked_child_that_ends_leaves_the_run_to_its_parent(directory: Directory) -> None:
    with child("fork", directory.path) as process:
        assert "in a forked child: process" in line(process)
        assert line(process) == "went on"
        assert (directory.path / RUN / "reserve").exists()
        with pytest.raises(LogError, match=f"by process {process.pid} "):
            directory.resume(RUN)
    with directory.resume(RUN) as log:
        assert len(everything(log)) == 2


def test_a_run_is_not_opened_twice_by_one_process(directory: Directory) -> None:
    with directory.create(RUN):
        with pytest.raises(LogError, match="is being written by this process"):
            directory.resume(RUN)
        with pytest.raises(LogError, match="is being written by this process"):
            RunLog.create(directory.path / RUN, RUN)


def test_a_run_whose_process_was_killed_while_it_made_the_file_is_made_again(directory: Directory) -> None:
    (directory.path / RUN).mkdir()
    (directory.path / RUN / (RUN_FILE + ".new")).write_bytes(b"half a file")
    assert directory.runs() == []
    with directory.create(RUN) as log:
        log.append(RECORDS[:1])
        assert everything(log) == RECORDS[:1]


def test_an_unsealed_run_is_read_from_a_copy(directory: Directory, closed: Path, tmp_path: Path) -> None:
    shutil.copytree(closed.parent, tmp_path / "copy" / RUN)
    with Directory(tmp_path / "copy").open(RUN) as log:
        assert everything(log) == RECORDS
    assert directory.runs()[0].run == RUN


def test_the_reserve_takes_room_until_it_is_freed(directory: Directory) -> None:
    reserve = directory.path / RUN / "reserve"
    with directory.create(RUN) as log:
        assert reserve.stat().st_blocks * 512 >= 1 << 20
        log.free_reserve()
        log.free_reserve()
        assert not reserve.exists()


def test_a_wal_that_sqlite_removes_while_it_is_looked_at_is_none(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    with directory.create(RUN) as log:
        log.append(RECORDS[:10])
    monkeypatch.setattr(Path, "exists", lambda _: True)  # As a moment ago.
    with directory.open(RUN) as log:
        assert len(log.read().records) == 10


def test_records_that_were_acknowledged_are_missed_at_the_end_of_a_log(directory: Directory, closed: Path) -> None:
    alter(closed, "DELETE FROM records WHERE row > 297")
    with pytest.raises(LogError, match="ends 3 records before the one that was written last"):
        directory.resume(RUN)
    closed.with_name(WRITER_LOCK).unlink()
    with directory.resume(RUN) as log:
        assert log.heads().row == 297
