"""Wakes readers in other processes after a commit, sooner than they would notice it: a datagram to the Unix socket of each."""

import hashlib
import os
import select
import socket
import stat
import tempfile
import time
from itertools import count
from pathlib import Path

from esper.events.envelope import RunId

POLL_S = 0.05  # Readers look for new records at least every 50 ms, notified or not.
_LONGEST_PATH = 100  # A Unix socket's path has 108 bytes on Linux, 104 on macOS.
_TICK_NS = 100_000_000
_listeners = count(1)


def _socket_folder(log: Path) -> Path | None:
    """The private folder of the readers' sockets for the log at `log`; None where there cannot be one, and readers poll."""
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
                return None  # A folder of another user, or open to others, is not used.
    except OSError:
        return None
    return folder


class Notifier:
    """The writer's end: sends the run's id to every reader's socket. Never waits and never fails: readers poll besides."""

    def __init__(self, log: Path, run: RunId) -> None:
        self._folder = _socket_folder(log)
        self._message = run.encode()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._listed_ns = -1
        self._listeners: tuple[str, ...] = ()

    def notify(self) -> None:
        """Wakes every reader of the log."""
        if self._folder is None:
            return
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            if changed_ns != self._listed_ns:
                self._listeners = tuple(map(os.fspath, self._folder.iterdir()))
                # A folder's time moves in ticks: one that changed just now may change once more without showing it.
                self._listed_ns = changed_ns if time.time_ns() - changed_ns > _TICK_NS else -1
        except OSError:
            return
        for listener in self._listeners:
            try:
                self._socket.sendto(self._message, listener)
            except ConnectionRefusedError:
                Path(listener).unlink(missing_ok=True)  # Its reader was killed.
            except OSError:
                pass  # A full queue: the reader is notified already.

    def close(self) -> None:
        """Closes the socket; nothing is sent afterwards."""
        self._folder = None
        self._socket.close()


class Listener:
    """A reader's end: the socket that writers send to. Where there cannot be one it only sleeps."""

    def __init__(self, log: Path) -> None:
        self._receiver: socket.socket | None = None
        folder = _socket_folder(log)
        if folder is None:
            return
        self._path = folder / f"{os.getpid()}-{next(_listeners)}"
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._path.unlink(missing_ok=True)
            receiver.bind(os.fspath(self._path))
        except OSError:
            receiver.close()
            return
        receiver.setblocking(False)
        self._receiver = receiver

    def notified(self, timeout_s: float) -> frozenset[RunId]:
        """The runs that were written to, as soon as there is one; none after `timeout_s`."""
        if self._receiver is None:
            time.sleep(timeout_s)
            return frozenset()
        poll = select.poll()  # Not select.select: it knows no descriptor above 1023.
        poll.register(self._receiver, select.POLLIN)
        poll.poll(timeout_s * 1000)
        runs: set[RunId] = set()
        while True:
            try:
                runs.add(RunId(self._receiver.recv(256).decode(errors="replace")))
            except OSError:
                return frozenset(runs)

    def close(self) -> None:
        """Closes the socket and removes its name; a second call does nothing."""
        if self._receiver is not None:
            self._receiver.close()
            self._path.unlink(missing_ok=True)
            self._receiver = None
