"""Starts the processes of `child`, reads what they say, and ends them."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TextIO

NOBODY = 65534
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Child:
    """A process, and the end at which its standard output is read."""

    pid: int
    output: TextIO

    def kill(self) -> None:
        """Ends it with kill -9, unless it has ended."""
        os.kill(self.pid, signal.SIGKILL)  # Nobody else has this pid: it is free only once the parent has waited for it.


@cache
def _orders() -> socket.socket:
    """Where the parent of all children takes its orders; it is started at the first call and ends with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "tests.oona.child", str(theirs.fileno())]
        parent = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
    atexit.register(parent.wait)
    atexit.register(ours.close)
    return ours


@contextmanager
def child(what: str, directory: Path, *, user: int | None = None) -> Iterator[Child]:
    """The process that does `what` to `directory`; killed with kill -9 at the end of the block, and gone after it."""
    orders = _orders()
    with ExitStack() as ends:
        (reading, asking), (output, saying) = os.pipe(), os.pipe()
        ends.callback(os.close, asking)
        said = ends.enter_context(os.fdopen(output))
        socket.send_fds(orders, [json.dumps([what, str(directory), user]).encode()], [reading, saying])
        os.close(reading)
        os.close(saying)
        process = Child(int(orders.recv(64)), said)
        try:
            yield process
        finally:
            process.kill()
            orders.send(b"%d" % process.pid)
            assert orders.recv(64) == b"gone"


def line(process: Child) -> str:
    """The next line that the process says; empty when it ended."""
    return process.output.readline().rstrip("\n")


def open_to_others(path: Path) -> None:
    """Lets other users look into `path`, which is private as temporary folders are."""
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 0o077:
            folder.chmod(0o755)
