"""Where a log may stand: a local, writable folder with room to say why a run ended."""

import os
import re
from pathlib import Path
from typing import Self

from esper.errors import LogError
from esper.oona.file import explained, sync_folder

_RESERVE = "reserve"
_RESERVE_BYTES = 1 << 20
_ESCAPED = re.compile(r"\\([0-7]{3})")  # How proc(5) writes space, tab, newline and backslash.

# File systems whose files another machine may change, or that do not keep locks and shared memory as SQLite's WAL needs them; behind
# "fuse." the name of the program counts.
_NETWORK = frozenset((
    "nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "smbnetfs", "ncpfs", "afs", "coda", "9p", "ceph", "glusterfs", "lustre", "beegfs",
    "gpfs", "pvfs2", "orangefs", "acfs", "gfs2", "ocfs2", "sshfs", "s3fs", "s3ql", "goofys", "gcsfuse", "rclone", "mount-s3", "davfs",
    "davfs2", "curlftpfs", "cvmfs2", "moosefs", "mfs", "juicefs", "seaweedfs", "hdfs", "vboxsf", "prl_fs",
))  # fmt: skip


class Reserve:
    """A file that is only there to be deleted: it keeps room for RunFailed on a disk that has filled up."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def make(cls, folder: Path) -> Self:
        """The reserve of the run in `folder`, one MiB, really allocated. Raises LogError on a disk that is full already."""
        made = cls(folder / _RESERVE)
        try:
            with explained(made._path, "write"), made._path.open("wb") as reserve:
                # Written, not truncated to its length or fallocated: a hole keeps no room, and not every system has the other.
                reserve.write(bytes(_RESERVE_BYTES))
                reserve.flush()
                os.fsync(reserve.fileno())
        except LogError:
            made.free()  # A part of it would only make the full disk fuller.
            raise
        return made

    def free(self) -> None:
        """Gives the room back; a second call does nothing."""
        self._path.unlink(missing_ok=True)


def make_place(path: Path) -> None:
    """Makes the folder of a log. Raises LogError where it cannot be made or written."""
    with explained(path, "make the folder"):
        absent = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in absent:
            sync_folder(folder.parent)
    if not os.access(path, os.W_OK | os.X_OK):
        raise LogError(f"cannot write a log at {path}: the folder is not writable")


def refuse_network(path: Path, mounts: str) -> None:
    """Raises LogError where `path` is on a network file system: SQLite's locks and shared memory need a local disk."""
    kind = file_system_of(path.resolve(), mounts)
    if kind in _NETWORK or kind.partition(".")[2] in _NETWORK:
        raise LogError(f"cannot keep a log at {path}: expected a local disk, got the network file system {kind}")


def mounted() -> str:
    """What is mounted where, as proc(5) describes mountinfo; empty where the system does not say (it is not Linux)."""
    try:
        return Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that `path` is on, by the text of `mounted`; empty where that does not say."""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields, _, more = line.partition(" - ")
        point = _ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields.split()[4])
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, more.split()[0]
    return kind
