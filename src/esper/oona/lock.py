"""The lock that keeps a run to one process: an exclusive lock on a file that is opened once and kept open.

The lock is POSIX (`fcntl.lockf`), which dies with its process. `flock` does not: a forked DataLoader worker keeps it after kill -9 of
the trainer. The price of POSIX locks is that a process never conflicts with itself and loses its lock when it closes *any* descriptor of
the file; so this module remembers what the process holds, and never opens a file that it holds.

The holder may note a number in the file: how far it came. It is written after what it counts is on the disk, so it is never ahead of that,
and it outlives the process.
"""

import errno
import fcntl
import os
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

from esper.errors import LogError

# struct flock as the kernel wants it: Linux (64 bit) l_type, l_whence, l_start, l_len, l_pid; elsewhere (macOS, BSD) start, len, pid, type,
# whence.
_LINUX = sys.platform == "linux"
_LAYOUT = "hhqqi4x" if _LINUX else "qqihh"

_NOTE_BYTES = 20
_held: dict[tuple[int, int], int] = {}
_held_guard = threading.Lock()


class Lock:
    """An exclusive lock, held until `release` or to the process's end. It does not pass to forked children."""

    def __init__(self, path: Path, what: str) -> None:
        """Takes the lock at `path`, made if need be. Raises LogError, with the holder's pid, when `what` is held already."""
        with _held_guard:
            holder = _holder(path)
            if holder is not None:
                raise LogError(_refusal(path, what, holder))
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise LogError(f"cannot open the lock of {what} at {path}: {error.strerror}") from error
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._descriptor)
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise LogError(f"cannot lock {path}: {error.strerror}") from error
                raise LogError(_refusal(path, what, _holder(path) or 0)) from error
            status = os.fstat(self._descriptor)
            self._identity = status.st_dev, status.st_ino
            self.noted = _number(os.pread(self._descriptor, _NOTE_BYTES, 0))
            """The number that a holder noted last; 0 where none did."""
            _held[self._identity] = os.getpid()
            # Two processes lock two files where one was removed in between; only the one at the path counts.
            lost = _holder(path) != os.getpid()
        if lost:
            self.release()
            raise LogError(f"cannot lock {path}: it was removed or replaced at that moment; try again")

    def note(self, number: int) -> None:
        """Keeps `number` in the file. Where it cannot be written, the one before stays."""
        with suppress(OSError):
            os.pwrite(self._descriptor, b"%0*d" % (_NOTE_BYTES, number), 0)

    def release(self) -> None:
        """Gives the lock back; a second call does nothing, nor does one in a forked child, which holds no lock."""
        with _held_guard:
            if _held.get(self._identity) == os.getpid():
                del _held[self._identity]
                os.close(self._descriptor)


def noted(path: Path) -> int:
    """The number that a holder of the lock at `path` noted last; 0 where none did, and for one that this process holds."""
    with _held_guard:
        try:
            status = path.lstat()
            if _held.get((status.st_dev, status.st_ino)) == os.getpid():
                return 0
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            return _number(os.read(descriptor, _NOTE_BYTES))
        except OSError:
            return 0
        finally:
            os.close(descriptor)


def _number(text: bytes) -> int:
    return int(text) if len(text) == _NOTE_BYTES and text.isdigit() else 0


def holder_of(path: Path) -> int | None:
    """The pid of the process that holds the lock at `path`; None when none does. Takes no lock."""
    with _held_guard:
        return _holder(path)


def _holder(path: Path) -> int | None:
    try:
        status = path.stat()
    except OSError:
        return None
    if _held.get((status.st_dev, status.st_ino)) == os.getpid():
        return os.getpid()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    # A read lock is asked about: that needs no right to write, and conflicts with an exclusive lock all the same.
    asked = (fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0) if _LINUX else (0, 0, 0, fcntl.F_RDLCK, os.SEEK_SET)
    try:
        found = struct.unpack(_LAYOUT, fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_LAYOUT, *asked)))
    finally:
        os.close(descriptor)
    kind, pid = (found[0], found[4]) if _LINUX else (found[3], found[2])
    return None if kind == fcntl.F_UNLCK else int(pid)


def _refusal(path: Path, what: str, holder: int) -> str:
    who = "this process" if holder == os.getpid() else f"process {holder}" if holder > 0 else "another process"
    return f"{what} is being written by {who} (lock {path}): one process writes a run; wait for it or end it"
