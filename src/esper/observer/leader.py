"""The leader: of all processes that could observe a directory, the one that holds its lock. The others wait.

Every training starts such a process (`start_watchers`); `esper observe` and `esper nissa` are others. When the leader ends, the next
process takes the lock within a second and goes on from the files. A background leader leaves some time after the last training; one that
had to wait, and finds no training, leaves as soon as nothing is left to do.
"""

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

from esper.durable import appended, rotated
from esper.errors import LogError
from esper.observer.observing import Observer
from esper.oona.directory import Directory
from esper.oona.file import explained
from esper.oona.lock import Lock, holder_of
from esper.stderr import warn

_LOCK = "observer.lock"
_NEXT_LOCK = "observer.next.lock"
LEAVE_AFTER_S = 60.0
OBSERVER_OUTPUT, AGENT_OUTPUT = "observer.log", "agent.log"
_OUTPUT_BYTES = 4 << 20
OBSERVE_VARIABLE = "ESPER_OBSERVE"
_TURN_S = 0.25
_WAIT_S = 0.5
_LATE_S = 3.0


def observer_of(directory: Directory) -> int | None:
    """The pid of the process that observes `directory`; None where none does."""
    return holder_of(directory.path / _LOCK)


def rotate_output(path: Path) -> None:
    """Begins `path`, the output of this background process, anew where it is full; another's is left alone."""
    with suppress(OSError):
        rotated(path, (1, 2), _OUTPUT_BYTES)


def take_lock(directory: Directory) -> Lock:
    """The lock of the observation of `directory`. Raises LogError where another process holds it, or it cannot be made."""
    return Lock(directory.path / _LOCK, f"the observation of {directory.path}")


def lead(
    directory: Directory,
    make: Callable[[], Observer],
    *,
    stop: Callable[[], bool],
    leave_after_s: float | None,
    waiting: Callable[[int], None],
) -> None:
    """Waits for the lock of `directory`, then observes until `stop`, or until nothing was left to do for `leave_after_s`.

    `waiting` is called once with the pid of the present leader. Where the directory is emptied meanwhile, a new lock is taken. Of those
    that leave by themselves one waits at a time, and any other leaves at once: every training starts one.
    """
    has_waited = False
    with ExitStack() as place:
        while not stop():
            holder = observer_of(directory)
            lock = _free_lock(directory) if holder is None else None
            if lock is not None:
                late_s = None if leave_after_s is None else min(leave_after_s, _LATE_S if has_waited else math.inf)
                place.close()
                if _observe(directory, lock, make, stop, late_s):
                    return
                continue
            if not has_waited and holder is not None:
                if leave_after_s is not None and not _take_next_place(directory, place):
                    return
                has_waited = True
                waiting(holder)
            time.sleep(_WAIT_S)


def _free_lock(directory: Directory) -> Lock | None:
    try:
        return take_lock(directory)
    except LogError:
        if observer_of(directory) is None:
            raise  # No process holds it: it cannot be made.
        return None


def _take_next_place(directory: Directory, place: ExitStack) -> bool:
    """Puts the place of the one that waits into `place`; False where another process has it."""
    try:
        place.callback(Lock(directory.path / _NEXT_LOCK, f"the place after the observer of {directory.path}").release)
    except LogError:
        return False
    return True


def _observe(directory: Directory, lock: Lock, make: Callable[[], Observer], stop: Callable[[], bool], leave_after_s: float | None) -> bool:
    """Observes, then releases `lock`; False where its file was removed meanwhile, as when the directory is emptied."""
    with ExitStack() as stack:
        stack.callback(lock.release)
        observer = stack.enter_context(make())
        busy_at = time.monotonic()
        while not stop():
            records = observer.turn(_TURN_S)
            if observer_of(directory) != os.getpid():
                return False
            if records or not observer.idle:
                busy_at = time.monotonic()
            elif leave_after_s is not None and time.monotonic() >= busy_at + leave_after_s:
                break
    return True


def start_watchers(directory: Directory, *, observer: bool = True) -> None:
    """Starts a process that observes `directory`, where an `observer` is wanted, and one that measures the machine.

    Both leave on their own. ESPER_OBSERVE=0 starts none. Their output goes to `observer.log` and `agent.log` in the directory; an observer
    that could not start, or failed, is reported on standard error too.
    """
    if os.environ.get(OBSERVE_VARIABLE) == "0":
        return
    if observer:
        _start(directory, "observe", directory.path / OBSERVER_OUTPUT)
    if find_spec("psutil") is not None:
        _start(directory, "agent", directory.path / AGENT_OUTPUT)


def _start(directory: Directory, command: str, log: Path) -> None:
    words = [sys.executable, "-m", "esper.cli", command, "--log", os.fspath(directory.path.absolute()), "--background"]
    with explained(log, "write"):
        opened = appended(log)
    with opened as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)  # noqa: S603

    def wait() -> None:
        # A process that is not waited for stays as a zombie. Without its observer the alerts of a training are not delivered.
        if (code := process.wait()) != 0 and command == "observe":
            warn(f"the observer that this training started ended with {code}; the training goes on. Why: {log}")

    threading.Thread(target=wait, name=f"esper-{command}", daemon=True).start()
