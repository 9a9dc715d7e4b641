"""A log: a directory on a local disk, with one directory per run. Lists runs, finds them by a part of their id, and opens them.

Listing opens no database: a sealed run is described by its mark, any other by its lock. In a mirror no process of this machine writes a
run: it is live while its newest record is younger than a minute, six heartbeats, and it was not stopped.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from esper.durable import sync_folder
from esper.errors import AmbiguousRunError, LogError, RuleError, UnknownRunError
from esper.events.envelope import TRAINER, RunId, is_training
from esper.events.kinds.run import RunFinished
from esper.oona.file import CHECKPOINTS, MIRRORED_MARK, ONE_HOST, RUN_FILE, WRITER_LOCK, explained, fenced_by, in_mark, read_mark
from esper.oona.lock import holder_of
from esper.oona.run_log import RunLog
from esper.settings import nearest

_LATEST = "latest"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z:._-]{0,127}")
_SHOWN = 10
_LIVE_S = 60.0
_ESCAPED = re.compile(r"\\([0-7]{3})")  # How proc(5) writes space, tab, newline and backslash.

# File systems whose files another machine may change, or that do not keep locks and shared memory as SQLite's WAL needs them; behind
# "fuse." the name of the program counts.
_NETWORK = frozenset((
    "nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "smbnetfs", "ncpfs", "afs", "coda", "9p", "ceph", "glusterfs", "lustre", "beegfs",
    "gpfs", "pvfs2", "orangefs", "acfs", "gfs2", "ocfs2", "sshfs", "s3fs", "s3ql", "goofys", "gcsfuse", "rclone", "mount-s3", "davfs",
    "davfs2", "curlftpfs", "cvmfs2", "moosefs", "mfs", "juicefs", "seaweedfs", "hdfs", "vboxsf", "prl_fs",
))  # fmt: skip


def new_run_id(time: datetime, randomness: bytes) -> RunId:
    """A UUIDv7 (RFC 9562, section 5.7) of `time` and ten random bytes: ids in order of time, across processes."""
    if len(randomness) != 10:
        raise RuleError(f"expected 10 random bytes, got {len(randomness)}")
    number = int(time.timestamp() * 1000) << 80 | int.from_bytes(randomness, "big")
    number = number & ~(0xF << 76) | 0x7 << 76  # Version 7.
    number = number & ~(0x3 << 62) | 0x2 << 62  # Variant 10.
    digits = f"{number:032x}"
    return RunId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


@dataclass(frozen=True, slots=True)
class RunEntry:
    """A line of a list of runs. `live`: a process writes it now, `holder` if that is on this machine; `mirrored`: it is a copy from Kafka.

    `summary` stands in a sealed run's mark, None if unreadable.
    """

    run: RunId
    path: Path
    sealed: bool
    holder: int | None
    summary: Mapping[str, JsonValue] | None
    live: bool
    mirrored: bool = False


class Directory:
    """The log in one directory."""

    def __init__(self, path: Path | str, *, create: bool = False) -> None:
        self.path = Path(path)
        try:
            os.fspath(self.path.resolve()).encode()
        except UnicodeEncodeError as error:
            raise LogError(f"cannot keep a log at {os.fspath(self.path)!a}: expected a path in UTF-8, which SQLite needs") from error
        if create:
            _make_folder(self.path)
        with explained(self.path, "open"):
            if not self.path.is_dir():
                raise LogError(f"expected a log at {self.path}, got {'a file' if self.path.exists() else 'nothing'}")
        refuse_network(self.path)

    def create(self, run: RunId, writer: str = TRAINER) -> RunLog:
        """The new log of `run`, to be written. Raises LogError where the run exists."""
        return RunLog.create(self._folder(run), run, writer)

    def resume(self, run: RunId) -> RunLog:
        """The log of `run`, checked, to be written on.

        Raises LogError with the pid where another process writes it, and with the reason for a training that goes on elsewhere.
        """
        folder = self._existing(run)
        if is_training(run) and (reason := fenced_by(folder)) is not None:
            raise LogError(f"{reason}; it goes on there, and not in {self.path}")
        return RunLog.resume(folder)

    def open(self, run: RunId) -> RunLog:
        """The log of `run`, to be read."""
        return RunLog(self._existing(run))

    def seal_finished(self, run: RunId) -> bool:
        """True when `run` is sealed now: does what a writer could not do, because a reader held the file or because it was killed first.

        False for a run that is being written or did not finish, or that a reader holds open now. Raises LogError for a damaged file.
        """
        folder = self._existing(run)
        if read_mark(folder) is not None:
            return True
        if holder_of(folder / WRITER_LOCK) is not None:
            return False
        with RunLog(folder) as log:
            if [record.type for record in log.last()] != [RunFinished.KIND]:
                return False
        with RunLog.resume(folder) as log:
            return log.seal()

    def checkpoints(self, run: RunId) -> Path:
        """The folder of the checkpoints of `run`; made when one is saved."""
        return self._folder(run) / CHECKPOINTS

    def runs(self, *, hidden: bool = False) -> list[RunEntry]:
        """Every run, the newest first. Those about no training (`machine:...`, `nissa:...`, `audit:...`) only when `hidden`."""
        return [entry for name in self.names(hidden=hidden) if (entry := self.entry(name)) is not None]

    def names(self, *, hidden: bool = False) -> list[RunId]:
        """The ids of all that may be runs, the newest first; none is opened."""
        with explained(self.path, "list"), os.scandir(self.path) as found:
            names = [entry.name for entry in found if entry.is_dir() and _NAME.fullmatch(entry.name)]
        return [RunId(name) for name in sorted(names, reverse=True) if hidden or is_training(name)]

    def entry(self, run: RunId) -> RunEntry | None:
        """The line of `run`; None where there is no log yet (its process was killed while it made one)."""
        folder = self.path / run
        mark = read_mark(folder)
        if mark is not None:
            return RunEntry(run, folder, sealed=True, holder=None, summary=in_mark(mark, "summary", dict), live=False)
        if not self.has_log(run):
            return None
        newest_at, holder = _newest_at(folder), holder_of(folder / WRITER_LOCK)
        live = holder is not None if newest_at is None else time.time() < newest_at + _LIVE_S
        return RunEntry(run, folder, sealed=False, holder=holder, summary=None, live=live, mirrored=newest_at is not None)

    def is_live(self, run: RunId) -> bool:
        """True while a process writes `run`, which is not sealed."""
        entry = self.entry(run)
        return entry is not None and entry.live

    def has_log(self, run: RunId) -> bool:
        """True where `run` has a file, or may have one: opening a folder that may not be searched raises the reason."""
        try:
            return (self.path / run / RUN_FILE).exists()
        except OSError:
            return True

    def resolve(self, text: str) -> RunId:
        """The run that `text` means: `latest`, an id, or its unique beginning or end. Names are read; an id costs one look.

        Raises UnknownRunError or AmbiguousRunError with the candidates.
        """
        if _NAME.fullmatch(text) and self.has_log(RunId(text)):
            return RunId(text)
        return resolve_among(text, self.names(), os.fspath(self.path), self.has_log)

    def _folder(self, run: RunId) -> Path:
        if not _NAME.fullmatch(run):
            raise RuleError(f"expected a run id of letters, digits and -_.:, got {run!r}")
        return self.path / run

    def _existing(self, run: RunId) -> Path:
        folder = self._folder(run)
        with explained(folder, "open"):
            exists = (folder / RUN_FILE).exists()
        if not exists:
            raise LogError(f"expected the log of run {run} at {folder / RUN_FILE}, got nothing")
        return folder


def resolve_among(text: str, names: Sequence[RunId], place: str, exists: Callable[[RunId], bool] = lambda _: True) -> RunId:
    """The run that `text` means: `latest`, the first of `names` that `exists`, or a unique beginning or end of one.

    Raises UnknownRunError or AmbiguousRunError with the candidates in `place`.
    """
    runs = filter(exists, names)
    if text == _LATEST:
        newest = next(runs, None)
        if newest is None:
            raise UnknownRunError(f"expected a run in {place}, got an empty log")
        return newest
    meant = [name for name in names if text and (name.startswith(text) or name.endswith(text)) and exists(name)]
    if len(meant) == 1:
        return meant[0]
    candidates = meant or list(runs)
    listed = ", ".join(candidates[:_SHOWN]) + (f" and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else "")
    problem = f"{len(meant)} runs begin or end with {text!r}" if meant else f"no run begins or ends with {text!r}"
    hint = "" if meant else nearest(text, (_LATEST,))
    error = AmbiguousRunError if meant else UnknownRunError
    raise error(f"{problem} in {place}{hint}; there are: {listed or 'none'}")


def _newest_at(folder: Path) -> float | None:
    """The time of the newest record of the run that a mirror copies into `folder`; None for a run that is no copy."""
    try:
        return (folder / MIRRORED_MARK).stat().st_mtime
    except OSError:
        return None


def _make_folder(path: Path) -> None:
    """Makes the folder of a log. Raises LogError where it cannot be made or written."""
    with explained(path, "make the folder"):
        absent = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in absent:
            sync_folder(folder.parent)
    if not os.access(path, os.W_OK | os.X_OK):
        raise LogError(f"cannot write a log at {path}: the folder is not writable")


def refuse_network(path: Path, mounts: str | None = None) -> None:
    """Raises LogError where `path` is on a network file system: hosts share no memory, which SQLite's WAL needs.

    One host may keep a log there without it: it is named in the file `.one-host`.
    """
    kind = file_system_of(path, mounts)
    if kind not in _NETWORK and kind.partition(".")[2] not in _NETWORK:
        return
    with explained(path / ONE_HOST, "read"):
        host = (path / ONE_HOST).read_text(errors="replace").strip() if (path / ONE_HOST).is_file() else None
    if host != socket.gethostname():
        way = f"it is kept by the host {host!r}" if host else f"one host alone may keep it there, slower: hostname > {path / ONE_HOST}"
        raise LogError(f"cannot keep a log at {path}: expected a local disk, got the network file system {kind}; {way}")


def file_system_of(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that `path` is on, by the table of mounts; empty where there is none (the system is not Linux).

    `mounts` is a table as proc(5) describes mountinfo; the system's own for None.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return ""
    path, best, kind = path.resolve(), "", ""
    for line in mounts.splitlines():
        fields, _, more = line.partition(" - ")
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields.split()[4])
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, more.split()[0]
    return kind
