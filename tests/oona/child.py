"""Processes that the tests start and kill: `python -m tests.oona.child WHAT DIRECTORY ...`. They speak in lines on standard output."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from esper.errors import EsperError
from esper.oona.contract import START
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.oona.samples import RUN, command, finished, setting, steps


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
                emitter.emit(steps(step), epoch=0, step=step)
            acknowledged = emitter.emit(command(step), epoch=0, step=step)
            emitter.commit()
            say(acknowledged)


def hold(directory: Path) -> None:
    """Holds the lock of a new run with one record until its standard input ends."""
    with Directory(directory).create(RUN) as log, Emitter(log, RUN, clock=_now) as emitter:
        emitter.emit(setting(0), epoch=0, step=0)
        emitter.commit()
        say("held")
        sys.stdin.read()


def finish(directory: Path) -> None:
    """Commits RunFinished, then waits to be killed before it can seal."""
    with Directory(directory).create(RUN) as log, Emitter(log, RUN, clock=_now) as emitter:
        emitter.emit(setting(0), epoch=0, step=0)
        emitter.emit(finished(), epoch=0, step=0)
        emitter.commit()
        say("finished")
        sys.stdin.read()


def fork(directory: Path) -> None:
    """Forks while it writes: the child leaves as a program does that knows nothing of the run, and this process goes on."""
    with Directory(directory).create(RUN) as log, Emitter(log, RUN, clock=_now) as emitter:
        emitter.emit(setting(0), epoch=0, step=0)
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


COMMANDS: dict[str, Callable[[Path], None]] = {action.__name__: action for action in (write, hold, finish, fork, read, create, resume)}

if __name__ == "__main__":
    if len(sys.argv) > 3:
        os.setuid(int(sys.argv[3]))  # Only now: the interpreter itself may stand where only root may look.
    COMMANDS[sys.argv[1]](Path(sys.argv[2]))
