"""One process owns a projection; every other one gets snapshots."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from esper.audit.ownership import SNAPSHOTS, is_current, owned, owner_of, place_of, snapshot_of
from esper.audit.projection import AUDIT_FILE
from esper.audit.snapshot import opened
from esper.errors import LogError
from esper.oona.directory import Directory
from tests.oona.processes import NOBODY
from tests.synthetic import RUN, write_run

pytestmark = pytest.mark.whole

OTHER = type(RUN)("01900000-0000-7000-8000-0000000000ff")


@pytest.fixture
def written(directory: Directory) -> Directory:
    write_run(directory)
    return directory


@contextmanager
def following(directory: Directory) -> Iterator[subprocess.Popen[str]]:
    """A process that follows the log; it has read everything when the block begins."""
    command = [sys.executable, "-m", "esper.cli", "audit", "follow", "--log", os.fspath(directory.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "up to date" in process.stdout.readline()
        assert "read from" in process.stdout.readline()
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def runs_in(path: Path) -> int:
    with duckdb.connect(path, read_only=True) as connection:
        return int(connection.execute("SELECT count(*) FROM runs").fetchall()[0][0])


def test_a_snapshot_has_everything_that_is_in_the_log(written: Directory) -> None:
    assert runs_in(snapshot_of(written).path) == 1
    write_run(written, run=OTHER)
    assert runs_in(snapshot_of(written).path) == 2


def test_a_snapshot_is_reused_while_nothing_has_changed(written: Directory) -> None:
    first, second = snapshot_of(written), snapshot_of(written)
    assert first.path == second.path
    assert second.as_of > first.as_of


def test_a_snapshot_may_not_be_written_and_has_no_wal(written: Directory) -> None:
    path = snapshot_of(written).path
    assert path.stat().st_mode & 0o222 == 0
    assert sorted(found.name for found in path.parent.iterdir()) == [path.name]


def test_a_wal_that_is_planted_beside_a_snapshot_is_refused(written: Directory) -> None:
    path = snapshot_of(written).path
    path.with_name(f"{path.name}.wal").write_bytes(b"planted")
    with pytest.raises(LogError, match="expected no write-ahead log"), opened(path):
        pass


def test_the_newest_two_snapshots_are_kept(written: Directory) -> None:
    first = snapshot_of(written).path
    for number in range(3):
        write_run(written, run=type(RUN)(f"01900000-0000-7000-8000-00000000000{number}"), until_epoch=1, finish=False)
        newest = snapshot_of(written).path
    assert len(list((written.path / SNAPSHOTS).iterdir())) == 2
    assert newest.exists()
    assert not first.exists()


def test_one_process_owns_a_projection_at_a_time(written: Directory) -> None:
    with owned(written), pytest.raises(LogError, match=f"this process|{os.getpid()}"), owned(written):
        pass


def test_a_process_that_follows_makes_the_snapshots_that_others_ask_for(written: Directory) -> None:
    with following(written) as process:
        assert owner_of(written) == process.pid
        assert runs_in(snapshot_of(written).path) == 1


def test_a_snapshot_answers_the_next_request_too_until_something_is_written_or_compared(written: Directory) -> None:
    snapshot_of(written)
    with owned(written) as projection:
        assert is_current(projection, [])
        assert not is_current(projection, [RUN])
        write_run(written, run=OTHER)
        projection.refresh()
        assert not is_current(projection, [])


def test_a_process_that_follows_compares_the_runs_that_others_ask_about(written: Directory) -> None:
    with following(written):
        shutil.rmtree(written.path / RUN / "observed.sqlite", ignore_errors=True)
        with duckdb.connect(snapshot_of(written, compare=[RUN]).path, read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM positions WHERE compared_at IS NOT NULL").fetchall() == [(1,)]


def test_a_second_process_that_would_follow_is_told_who_does(written: Directory) -> None:
    with following(written) as process:
        command = [sys.executable, "-m", "esper.cli", "audit", "follow", "--log", os.fspath(written.path)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert f"process {process.pid}" in second.stderr


def test_an_owner_that_was_killed_is_followed_by_whoever_asks(written: Directory) -> None:
    with pytest.raises(AssertionError), following(written) as process:
        process.kill()
    began = time.monotonic()
    assert runs_in(snapshot_of(written).path) == 1
    assert time.monotonic() - began < 60


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not write a log")
def test_the_tables_of_a_log_that_may_not_be_written_stand_in_the_users_cache(written: Directory, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    written.path.chmod(0o755)
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    child = os.fork()
    if child == 0:
        os.environ["XDG_CACHE_HOME"] = os.fspath(cache)
        os.setuid(NOBODY)
        os._exit(0 if place_of(written).is_relative_to(cache) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(list((cache / "esper" / "audit").iterdir())) == 1
    assert place_of(written) == written.path


def test_nothing_of_the_tables_looks_like_a_run(written: Directory) -> None:
    with owned(written):
        pass
    snapshot_of(written)
    assert written.names(hidden=True) == [RUN]


@pytest.mark.parametrize("how", ["removed", "replaced", "linked"])
def test_a_projection_whose_file_is_another_s_is_made_anew(written: Directory, tmp_path: Path, how: str) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"theirs")
    path = written.path / AUDIT_FILE
    with owned(written) as projection:
        projection.refresh()
        projection.checkpoint()
        write_run(written, run=OTHER)
        shutil.copy(path, tmp_path / "older")
        path.unlink()
        if how == "replaced":
            (tmp_path / "older").rename(path)
        elif how == "linked":
            path.symlink_to(theirs)
        projection.refresh()
        assert projection.made_anew == "it was removed or replaced while it was open"
    assert runs_in(snapshot_of(written).path) == 2
    assert theirs.read_bytes() == b"theirs"


def test_no_projection_is_written_through_a_link(written: Directory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (written.path / AUDIT_FILE).symlink_to(elsewhere)
    assert runs_in(snapshot_of(written).path) == 1
    assert not elsewhere.exists()
    assert not (written.path / AUDIT_FILE).is_symlink()
