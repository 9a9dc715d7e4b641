"""The owner of a log's projection, and the way in which every other process gets it: as a snapshot, a file that is never written again.

The owner holds `audit.lock`. `follow` stays the owner and answers requests; where no process follows, whoever asks is the owner for as long
as a refresh takes. A snapshot is a copy of the whole file without a WAL, reused while nothing has changed; its time is that of the last
moment at which it was the newest there was to know. The newest two are kept. All of it stands in the log's directory, or, where that may
not be written, in the user's cache.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from esper.audit.conflicts import compare_with_log
from esper.audit.projection import AUDIT_FILE, Projection, Refreshed
from esper.durable import replace_durably
from esper.errors import LogError
from esper.events.envelope import RunId
from esper.oona.directory import Directory
from esper.oona.lock import Lock, holder_of
from esper.settings import user_cache

AUDIT_LOCK = "audit.lock"
SNAPSHOTS = ".audit.snapshots"  # A name without a dot before it would be a run's.
_REQUESTS = ".audit.requests"
_KEPT = 2
_TURN_S = 0.25
_LEAST_BETWEEN_S = 10.0
_PATIENCE_S = 10.0
_FICLONE = 0x40049409  # linux/fs.h: the copy shares its blocks with the original, where the file system can.


class ProjectionSnapshot(NamedTuple):
    """A file that is never written again, and the time up to which it holds everything of the log."""

    path: Path
    as_of: datetime


def place_of(directory: Directory) -> Path:
    """The folder in which the projection of `directory` stands: its own, or one of the user's cache.

    That is where its own may not be written, or has a question mark in its path, behind which DuckDB looks for options.
    """
    if os.access(directory.path, os.W_OK) and "?" not in os.fspath(directory.path.absolute()):
        return directory.path
    place = user_cache() / "audit" / hashlib.sha256(os.fsencode(directory.path.resolve())).hexdigest()[:16]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"{directory.path} may not be written, and {place} cannot be made"
        raise LogError(f"cannot keep the tables of a log: {what}: {error.strerror}; name another with $XDG_CACHE_HOME") from error
    return place


def owner_of(directory: Directory) -> int | None:
    """The pid of the process that owns the projection of `directory` now; None: none does."""
    return holder_of(place_of(directory) / AUDIT_LOCK)


@contextmanager
def owned(directory: Directory) -> Iterator[Projection]:
    """The projection of `directory`, in this process's hands. Raises LogError, with the holder's pid, where another process owns it."""
    place = place_of(directory)
    lock = Lock(place / AUDIT_LOCK, f"the audit of {directory.path}")
    try:
        with Projection(directory, place / AUDIT_FILE) as projection:
            yield projection
    finally:
        lock.release()


def snapshot_of(
    directory: Directory, *, compare: Sequence[RunId] = (), waiting: Callable[[int], None] = lambda _: None
) -> ProjectionSnapshot:
    """A snapshot with everything that was in the log when it was asked for; `compare` runs are compared with what was read before.

    Where another process owns the projection it is asked, and waited for ten seconds; then the newest snapshot is returned, with its time.
    Where there is none yet, it is waited for as long as that process lives: `waiting` is called once with its pid. Raises LogError.
    """
    asked_at, told = time.time(), False
    request: Path | None = None
    try:
        while True:
            made = _made_here(directory, compare)
            if made is not None:
                return made
            request = request or _ask(directory, compare)
            newest = next(_snapshots(directory), None)
            if newest is not None and (not request.exists() or time.time() > asked_at + _PATIENCE_S):
                return newest
            holder = owner_of(directory)
            if not told and holder is not None and time.time() > asked_at + _PATIENCE_S:
                told = True
                waiting(holder)
            time.sleep(_TURN_S / 2)
    finally:
        if request is not None:
            request.unlink(missing_ok=True)


def follow(directory: Directory, *, stop: Callable[[], bool], report: Callable[[Refreshed], None]) -> None:
    """Owns the projection until `stop`: reads what is new, and answers requests for snapshots; a new one is made every ten seconds at most.

    Raises LogError where another process owns it.
    """
    with owned(directory) as projection:
        answered_at = -_LEAST_BETWEEN_S
        while not stop():
            refreshed = projection.refresh()
            if refreshed.records or refreshed.problems:
                report(refreshed)
            requests = _requests(directory)
            compare = [run for _, runs in requests for run in runs]
            is_due = time.monotonic() >= answered_at + _LEAST_BETWEEN_S
            if requests and (is_due or is_current(projection, compare)):
                answered_at = time.monotonic() if is_due else answered_at
                _answer(projection, compare)
                for path, _ in requests:
                    path.unlink(missing_ok=True)
            else:
                time.sleep(_TURN_S)


def is_current(projection: Projection, compare: Sequence[RunId]) -> bool:
    """True where the newest snapshot answers a request as it is: nothing was written since, and nothing is to be compared."""
    newest = next(_snapshots(projection.directory), None)
    return not compare and newest is not None and newest.path.stem == projection.version


def _made_here(directory: Directory, compare: Sequence[RunId]) -> ProjectionSnapshot | None:
    """The snapshot that this process makes as the owner; None where another process owns the projection."""
    if owner_of(directory) is not None:
        return None
    try:
        with owned(directory) as projection:
            return _answer(projection, compare)
    except LogError:
        if owner_of(directory) is None:
            raise
        return None


def _answer(projection: Projection, compare: Sequence[RunId]) -> ProjectionSnapshot:
    """The newest snapshot, made anew where anything has changed since the last."""
    as_of = time.time()
    projection.refresh()
    if compare:
        compare_with_log(projection, compare)
    folder = projection.path.parent / SNAPSHOTS
    version = projection.version
    newest = next(_snapshots(projection.directory), None)
    if newest is None or newest.path.stem != version:
        folder.mkdir(exist_ok=True)
        projection.checkpoint()
        path = folder / f"{version}.duckdb"
        draft = folder / f".{version}.{os.getpid()}"
        try:
            _copy(projection.path, draft)
            if not projection.is_in_place:
                draft.unlink(missing_ok=True)
                raise LogError(f"cannot make a snapshot of {projection.path}: it was replaced while it was copied; ask again")
            draft.chmod(0o444)
            draft.rename(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise LogError(f"cannot make a snapshot of {projection.path} in {folder}: {error.strerror or error}") from error
        newest = ProjectionSnapshot(path, datetime.fromtimestamp(as_of, UTC))
    os.utime(newest.path, (as_of, as_of))
    for old in list(_snapshots(projection.directory))[_KEPT:]:
        old.path.unlink(missing_ok=True)
    return ProjectionSnapshot(newest.path, datetime.fromtimestamp(as_of, UTC))


def _snapshots(directory: Directory) -> Iterator[ProjectionSnapshot]:
    """Every snapshot, the newest first."""
    found = []
    for path in (place_of(directory) / SNAPSHOTS).glob("[!.]*.duckdb"):
        try:
            found.append((path.stat().st_mtime, path))
        except FileNotFoundError:
            continue
    return (ProjectionSnapshot(path, datetime.fromtimestamp(at, UTC)) for at, path in sorted(found, reverse=True))


def _ask(directory: Directory, compare: Sequence[RunId]) -> Path:
    """The file that asks the owner for a snapshot; it removes the file when it has made one."""
    folder = place_of(directory) / _REQUESTS
    try:
        folder.mkdir(exist_ok=True)
        path = folder / f"{os.getpid()}-{time.time_ns()}.json"
        replace_durably(path, json.dumps({"compare": list(compare)}).encode())
    except OSError as error:
        raise LogError(f"cannot ask for a snapshot in {folder}: {error.strerror or error}") from error
    return path


def _requests(directory: Directory) -> list[tuple[Path, list[RunId]]]:
    """The requests that stand now, each with the runs to compare; one that cannot be read asks for a snapshot alone."""
    found = []
    for path in sorted((place_of(directory) / _REQUESTS).glob("*.json")):
        try:
            runs = json.loads(path.read_text())["compare"]
        except (OSError, ValueError, KeyError, TypeError):
            runs = []
        known = set(directory.names(hidden=True))
        found.append((path, [RunId(run) for run in runs if run in known]))
    return found


def _copy(source: Path, target: Path) -> None:
    """Copies a file, by sharing its blocks where the file system can."""
    with source.open("rb") as old, target.open("wb") as new:
        if not _is_cloned(old, new):
            shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())


def _is_cloned(old: BinaryIO, new: BinaryIO) -> bool:
    try:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError:
        return False
    return True
