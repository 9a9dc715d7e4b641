"""Tells readers in other processes that something was committed, sooner than they would notice."""

import hashlib
import os
import select
import socket
import stat
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Self

from esper.events.envelope import RunId

POLL_S = 0.05  # What a reader falls back to without a bell: 50 ms.
_LONGEST_PATH = 100  # A Unix socket's path has 108 bytes on Linux, 104 on macOS.
_TICK_NS = 100_000_000
_ears = count(1)


def bell_folder(log: Path) -> Path | None:
    """The private folder where readers of the log at `log` have their sockets; None where none can be had, and readers poll."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "esper" if runtime and Path(runtime).is_dir() else Path(tempfile.gettempdir()) / f"esper-{os.getuid()}"
    folder = base / hashlib.sha256(os.fsencode(log.resolve())).hexdigest()[:8]
    if len(os.fsencode(folder)) > _LONGEST_PATH - len("/1234567-1234"):
        return None
    try:
        for part in (base, folder):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = part.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
                return None  # Somebody else's folder, or open to others: no bell rather than theirs.
    except OSError:
        return None
    return folder


class Bell:
    """The writer's end: one datagram, the run's id, to every reader's socket. Never waits, never fails: readers poll besides."""

    def __init__(self, log: Path, run: RunId) -> None:
        self._folder = bell_folder(log)
        self._message = run.encode()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._folder else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._seen = -1
        self._ears: tuple[str, ...] = ()

    def ring(self) -> None:
        """Wakes every reader of the log."""
        if self._socket is None or self._folder is None:
            return
        try:
            changed = self._folder.stat().st_mtime_ns
            if changed != self._seen:
                self._ears = tuple(os.fspath(ear) for ear in self._folder.iterdir())
                # A folder's time moves in ticks: one that changed just now may change once more without showing it.
                self._seen = changed if time.time_ns() - changed > _TICK_NS else -1
        except OSError:
            return
        for ear in self._ears:
            self._wake(self._socket, ear)

    def _wake(self, sender: socket.socket, ear: str) -> None:
        try:
            sender.sendto(self._message, ear)
        except ConnectionRefusedError:
            Path(ear).unlink(missing_ok=True)  # Its reader was killed.
        except OSError:
            pass  # A full queue means that it has been rung already.

    def close(self) -> None:
        """Lets go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Ear:
    """A reader's end: the socket that writers ring. Without a place for one it only sleeps."""

    def __init__(self, path: Path | None, receiver: socket.socket | None) -> None:
        self._path = path
        self._receiver = receiver

    @classmethod
    def open(cls, log: Path) -> Self:
        """An ear for the log at `log`."""
        folder = bell_folder(log)
        if folder is None:
            return cls(None, None)
        path = folder / f"{os.getpid()}-{next(_ears)}"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            path.unlink(missing_ok=True)
            receiver.bind(os.fspath(path))
        except OSError:
            receiver.close()
            return cls(None, None)
        receiver.setblocking(False)
        return cls(path, receiver)

    def listen(self, timeout_s: float) -> frozenset[RunId]:
        """The runs that rang, as soon as one does; none after `timeout_s`."""
        if self._receiver is None:
            select.select((), (), (), timeout_s)
            return frozenset()
        poll = select.poll()  # Not select.select: it knows no descriptor above 1023.
        poll.register(self._receiver, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            return frozenset()
        return frozenset(self._drain(self._receiver))

    def _drain(self, receiver: socket.socket) -> set[RunId]:
        rung: set[RunId] = set()
        while True:
            try:
                rung.add(RunId(receiver.recv(256).decode(errors="replace")))
            except OSError:
                return rung

    def close(self) -> None:
        """Lets go of the socket and its name."""
        if self._receiver is not None and self._path is not None:
            self._receiver.close()
            self._path.unlink(missing_ok=True)
            self._receiver = None
