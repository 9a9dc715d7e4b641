"""Processes that the tests start and kill. They speak in lines on standard output.

`python -m tests.oona.child FD` is their parent: on that socket it takes orders and forks a process for each, so that all of this is
imported once. An order is JSON: [WHAT, DIRECTORY, USER or null] with the two ends that become standard input and output, answered
with a pid; or a pid, answered once that process is gone.
"""

import email.parser  # noqa: F401 - what tells torch's version imports it late, when the user may be one who cannot read it.
import json
import os
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from esper.errors import EsperError
from esper.history.checks import examine
from esper.oona.contract import START
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.oona.samples import RUN, command, finished, measure, pruned, steps


def say(word: object) -> None:
    """One line to whoever started this process, at once."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _now() -> datetime:
    return datetime.now(UTC)


def write(directory: Path) -> None:
    """Emits and commits groups until it is killed, and names the last record of each group once it is acknowledged."""
    with Directory(directory).create(RUN) as log, Emitter(log, RUN, clock=_now) as emitter:
        step = 0
        while True:
            for _ in range(7):
                step += 1
                measure(emitter, steps(step), epoch=0, step=step)
            acknowledged = emitter.emit(command(step), epoch=0, step=step)
            emitter.commit()
            say(acknowledged)


def hold(directory: Path) -> None:
    """Holds the lock of a new run with one record until its standard input ends."""
    with Directory(directory).create(RUN) as log, Emitter(log, RUN, clock=_now) as emitter:
        emitter.emit(pruned(0), epoch=0, step=0)
        emitter.commit()
        say("held")
        sys.stdin.read()


def finish(directory: Path) -> None:
    """Commits RunFinished, then waits to be killed before it can seal."""
    with Directory(directory).create(RUN) as log, Emitter(log, RUN, clock=_now) as emitter:
        emitter.emit(pruned(0), epoch=0, step=0)
        emitter.emit(finished(emitter.tails(epoch=0, step=0)), epoch=0, step=0)
        emitter.commit()
        say("finished")
        sys.stdin.read()


def fork(directory: Path) -> None:
    """Forks while it writes: the child leaves as a program does that knows nothing of the run, and this process goes on."""
    with Directory(directory).create(RUN) as log, Emitter(log, RUN, clock=_now) as emitter:
        emitter.emit(pruned(0), epoch=0, step=0)
        emitter.commit()
        child = os.fork()
        if child == 0:
            try:
                log.append(())
            except EsperError as error:
                say(error)
            sys.exit(0)
        os.waitpid(child, 0)
        emitter.emit(command(1), epoch=0, step=0)
        emitter.commit()
        say("went on")
        sys.stdin.read()


def read(directory: Path) -> None:
    """Keeps an open reader on a run until its standard input ends."""
    with Directory(directory).open(RUN) as log:
        say(len(log.read(START, 1).records))
        sys.stdin.read()


def create(directory: Path) -> None:
    """Tries to create a run, and says what became of it."""
    try:
        with Directory(directory, create=True).create(RUN):
            say("created")
    except EsperError as error:
        say(f"{type(error).__name__}: {error}")


def resume(directory: Path) -> None:
    """Tries to resume a run, and says what became of it."""
    try:
        with Directory(directory).resume(RUN) as log:
            say(log.heads().moment)
    except EsperError as error:
        say(f"{type(error).__name__}: {error}")


def diagnose(directory: Path) -> None:
    """What the doctor says about the log and its runs, and how bad it is."""
    for check in examine(directory):
        if check.name == "log" or check.name.startswith("run"):
            say(f"{check.verdict}: {check.answer}")


ACTIONS = (write, hold, finish, fork, read, create, resume, diagnose)
COMMANDS: dict[str, Callable[[Path], None]] = {action.__name__: action for action in ACTIONS}


def obey(orders: socket.socket) -> None:
    """Forks, and waits for, whatever is asked for, until nobody asks any more. The forked processes leave it by SystemExit."""
    while order := (received := socket.recv_fds(orders, 4096, 2))[0]:
        what = json.loads(order)
        if isinstance(what, int):
            os.waitpid(what, 0)
            orders.send(b"gone")
            continue
        pid = os.fork()
        if pid == 0:
            orders.close()
            become(*what, *received[1])
            sys.exit()
        for end in received[1]:
            os.close(end)
        orders.send(b"%d" % pid)


def become(what: str, directory: str, user: int | None, reading: int, writing: int) -> None:
    """Does `what` with these two ends as standard input and output."""
    for end, standard in ((reading, 0), (writing, 1)):
        os.dup2(end, standard)
        os.close(end)
    if user is not None:
        os.setuid(user)  # Only now: the interpreter itself may stand where only root may look.
    COMMANDS[what](Path(directory))


if __name__ == "__main__":
    obey(socket.socket(fileno=int(sys.argv[1])))
