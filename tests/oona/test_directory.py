"""A directory of runs: what is listed, and what people may type to mean a run."""

import json
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import LogError, RuleError
from esper.events.envelope import RunId
from esper.oona.directory import Directory, file_system_of, new_run_id, refuse_network
from esper.oona.file import FENCED_MARK, ONE_HOST, RUN_FILE
from tests.oona.samples import BEGAN, RUN, ended, mixed

A = RunId("01900000-0000-7000-8000-00000000abcd")
B = RunId("01900000-0000-7000-8000-000000001bcd")
C = RunId("02900000-0000-7000-8000-00000000ffff")
MACHINE = RunId("machine:host-1:2026-01-01")


def place(directory: Directory, *runs: RunId, sealed: bool = False) -> None:
    """Runs as a list sees them: a file that is never opened, and a mark."""
    for run in runs:
        folder = directory.path / run
        folder.mkdir()
        (folder / RUN_FILE).write_bytes(b"")
        if sealed:
            (folder / "sealed").write_text(json.dumps({"run": run, "records": 1, "summary": {"status": "finished"}}))


def test_runs_are_listed_newest_first_without_opening_any(directory: Directory) -> None:
    place(directory, B, C, sealed=True)
    place(directory, A, MACHINE)
    entries = directory.runs()
    assert [(entry.run, entry.sealed, entry.live, entry.summary) for entry in entries] == [
        (C, True, False, {"status": "finished"}),
        (A, False, False, None),
        (B, True, False, {"status": "finished"}),
    ]


def test_machines_are_listed_when_asked_for(directory: Directory) -> None:
    place(directory, A, MACHINE)
    assert [entry.run for entry in directory.runs(hidden=True)] == [MACHINE, A]


def test_other_files_and_folders_are_no_runs(directory: Directory) -> None:
    (directory.path / "audit.duckdb").write_text("")
    (directory.path / "kernels").mkdir()
    (directory.path / ".hidden").mkdir()
    assert directory.runs() == []


@pytest.mark.parametrize(
    ("text", "run"), [("latest", C), ("abcd", A), ("1bcd", B), ("029", C), (A, A), ("FFFF".lower(), C), (MACHINE, MACHINE)]
)
def test_a_run_is_meant_by_what_only_it_begins_or_ends_with(directory: Directory, text: str, run: RunId) -> None:
    place(directory, A, B, C, MACHINE)
    assert directory.resolve(text) == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bcd", f"2 runs begin or end with 'bcd' in .*: {A}, {B}"),
        ("zzz", f"no run begins or ends with 'zzz' in .*: {C}, {A}, {B}"),
        ("lastest", f"no run begins or ends with 'lastest' in .*, perhaps latest; there are: {C}"),
        ("", "no run begins or ends with ''"),
        ("host-1:2026-01-01", "no run begins or ends with"),
    ],
)
def test_what_means_no_run_or_several_is_refused_with_the_candidates(directory: Directory, text: str, message: str) -> None:
    place(directory, A, B, C, MACHINE)
    with pytest.raises(RuleError, match=message):
        directory.resolve(text)


def test_many_candidates_are_not_all_listed(directory: Directory) -> None:
    place(directory, *(RunId(f"{A[:-2]}{number:02}") for number in range(30)))
    with pytest.raises(RuleError, match="and 20 more"):
        directory.resolve("01900000")


def test_an_empty_log_has_no_latest_run(directory: Directory) -> None:
    with pytest.raises(RuleError, match="got an empty log"):
        directory.resolve("latest")


def test_a_missing_directory_is_refused_or_made(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"expected a log at .*, got nothing"):
        Directory(tmp_path / "a" / "b")
    assert Directory(tmp_path / "a" / "b", create=True).runs() == []


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match="got a file"):
        Directory(tmp_path / "file")


@pytest.mark.parametrize("run", ["../x", "", "a/b", ".x", "x" * 200])
def test_a_name_that_leaves_the_directory_is_refused(directory: Directory, run: str) -> None:
    with pytest.raises(RuleError, match="expected a run id"):
        directory.create(RunId(run))


def test_a_training_that_goes_on_elsewhere_is_not_resumed_here(directory: Directory) -> None:
    place(directory, A)
    (directory.path / A / FENCED_MARK).write_text("run A was taken over by b:/runs on Monday\n")
    with pytest.raises(LogError, match=f"^run A was taken over by b:/runs on Monday; it goes on there, and not in {directory.path}$"):
        directory.resume(A)


def test_checkpoints_stand_in_the_run(directory: Directory) -> None:
    assert directory.checkpoints(RUN) == directory.path / RUN / "checkpoints"


def test_an_agents_run_has_its_own_writer(directory: Directory) -> None:
    with directory.create(MACHINE, writer="agent") as log:
        assert (log.run, log.writer, log.heads().writer) == (MACHINE, "agent", "agent")
        with pytest.raises(RuleError, match="expected run"):
            log.append(mixed(1))


@given(st.binary(min_size=10, max_size=10), st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_a_new_id_is_a_uuid_of_version_seven_that_knows_its_time(randomness: bytes, time: datetime) -> None:
    run = uuid.UUID(new_run_id(time, randomness))
    assert (run.version, run.variant, run.int >> 80) == (7, uuid.RFC_4122, int(time.timestamp() * 1000))


def test_later_ids_sort_later() -> None:
    assert new_run_id(BEGAN, b"\xff" * 10) < new_run_id(BEGAN.replace(year=2027), b"\0" * 10)


def test_an_id_needs_ten_random_bytes() -> None:
    with pytest.raises(RuleError, match="expected 10 random bytes"):
        new_run_id(BEGAN, b"")


MOUNTS = r"""22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:25 / /home rw shared:2 - btrfs /dev/vdb rw,subvol=/home
31 22 0:30 / /data rw,relatime - nfs4 server:/data rw,vers=4.2
32 31 0:31 / /data/local rw - xfs /dev/vdc rw
33 22 0:32 / /mnt/my\040share rw - cifs //server/share rw
34 22 0:33 / /mnt/ssh rw - fuse.sshfs me@server: rw
35 22 0:34 / /mnt/ntfs rw - fuseblk /dev/vdd rw
36 30 0:35 / /home rw - zfs tank/home rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/log", "ext4"),
        ("/database", "ext4"),
        ("/data/runs", "nfs4"),
        ("/data/local/runs", "xfs"),
        ("/mnt/my share/runs", "cifs"),
        ("/mnt/ssh", "fuse.sshfs"),
        ("/home/me", "zfs"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("path", ["/data/runs", "/mnt/my share", "/mnt/ssh/runs"])
def test_a_network_file_system_is_refused(path: str) -> None:
    with pytest.raises(LogError, match=f"cannot keep a log at {path}: expected a local disk"):
        refuse_network(Path(path), MOUNTS)


@pytest.mark.parametrize("path", ["/var", "/data/local", "/home/me", "/mnt/ntfs"])
def test_a_local_disk_is_taken(path: str) -> None:
    refuse_network(Path(path), MOUNTS)


def test_a_system_that_does_not_say_what_is_mounted_is_trusted(tmp_path: Path) -> None:
    refuse_network(tmp_path, "")
    refuse_network(tmp_path)


def test_one_host_may_keep_a_log_on_a_network_file_system(tmp_path: Path) -> None:
    mounts = f"1 1 0:1 / {tmp_path} rw - nfs4 server:/ rw"
    with pytest.raises(LogError, match=f"one host alone may keep it there, slower: hostname > {tmp_path / ONE_HOST}"):
        refuse_network(tmp_path, mounts)
    (tmp_path / ONE_HOST).write_text("another\n")
    with pytest.raises(LogError, match="it is kept by the host 'another'"):
        refuse_network(tmp_path, mounts)
    (tmp_path / ONE_HOST).write_text(f"{socket.gethostname()}\n")
    refuse_network(tmp_path, mounts)


def test_a_log_of_one_host_needs_no_shared_memory(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    (tmp_path / ONE_HOST).touch()
    with directory.create(RUN) as log, directory.open(RUN) as reader:
        log.append(ended(20)[:10])
        assert len(reader.read().records) == 10
        log.append(ended(20)[10:])
        assert len(reader.read().records) == 20
        assert sorted(path.name for path in (tmp_path / RUN).iterdir()) == ["lock", "reserve", "run.sqlite"]
    with directory.resume(RUN) as log:
        assert log.heads().row == 20
        assert log.seal()
    assert directory.open(RUN).heads().row == 20
