"""The processes that die: a template that has imported everything, and one forked child of it per life of a run.

The template has one thread (it checks that before each fork), no log, no emitter and no autograd engine, only modules and the data of the
task; so a life starts as a fresh process would after its imports, which take two to three seconds. It reads one line of JSON per life and
answers with two: the pid, then how the life ended. What the life has to tell (see `_Teller`) goes to the pipe whose descriptor is the
first argument.
"""

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from esper.errors import EsperError
from esper.events.codec import encode
from esper.events.fields import Event
from esper.oona.catch_up import CatchUp
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.processes.train import resume, train
from esper.tolaria.trainer import Interrupted, Trainer
from tests.whole.kills import scenario
from tests.whole.kills.points import Function, Kill, arm, wrap

FINISHED, INTERRUPTED, FAILED = 0, 3, 4


class _Teller:
    """Tells the killer what happened, one line of JSON each, in the order in which it happened."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._since = time.monotonic()
        self._appended: list[tuple[str, str | None]] = []
        self._caught_up = False

    def tell(self, what: dict[str, object]) -> None:
        """Writes one line."""
        line = json.dumps(what).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]

    def listen(self) -> None:
        """Wraps the product's functions whose return is news."""
        wrap(Emitter, "_put", self._putting)
        wrap(Emitter, "commit", self._committing)
        wrap(Emitter, "_go_live", self._catching_up(lambda _emitter: True))
        wrap(CatchUp, "match_next", self._catching_up(lambda catch_up: not catch_up.pending))
        wrap(Trainer, "_step", self._stepping)

    def _putting(self, put: Function) -> Function:
        def wrapped(emitter: Emitter, event: object, *arguments: Any, **named: Any) -> Any:
            identity = put(emitter, event, *arguments, **named)
            digest = hashlib.sha256(encode(event)).hexdigest() if isinstance(event, Event) else None
            self._appended.append((identity, digest))
            return identity

        return wrapped

    def _committing(self, commit: Function) -> Function:
        def wrapped(emitter: Emitter) -> None:
            covered, self._appended = self._appended, []
            commit(emitter)
            if covered:
                self.tell({"acknowledged": covered})

        return wrapped

    def _catching_up(self, done: Any) -> Any:
        def make(function: Function) -> Function:
            def wrapped(one: Any, *arguments: Any, **named: Any) -> Any:
                result = function(one, *arguments, **named)
                if not self._caught_up and done(one):
                    self._caught_up = True
                    self.tell({"caught_up_s": time.monotonic() - self._since})
                return result

            return wrapped

        return make

    def _stepping(self, step: Function) -> Function:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            result = step(*arguments, **named)
            wrap(Trainer, "_step", lambda _wrapped: step)
            self.tell({"stepped": True})
            return result

        return wrapped


def live(descriptor: int, path: str, mode: str, kill: Kill | None) -> int:
    """One life of the run, to its end or to `kill`. Returns the exit code."""
    teller = _Teller(descriptor)
    teller.listen()
    if kill is not None:
        arm(kill)
    directory = Directory(Path(path), create=True)
    begin = train if mode == "train" else resume
    try:
        begin(scenario.recipe(), scenario.settings(), directory, scenario.RUN)
    except Interrupted:
        return INTERRUPTED
    except EsperError as error:
        teller.tell({"error": f"{type(error).__name__}: {error}"})
        return FAILED
    return FINISHED


def serve(descriptor: int) -> None:
    """Forks one life per line of standard input."""
    scenario.recipe()  # The data and torch's lazy parts are loaded once.
    for line in sys.stdin:
        order = json.loads(line)
        threads = len(list(Path("/proc/self/task").iterdir()))
        assert threads == 1, f"expected to fork from one thread, there are {threads}"
        pid = os.fork()
        if pid == 0:
            _live_and_exit(descriptor, order)
        _answer(pid)
        _answer(os.waitpid(pid, 0)[1])


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _live_and_exit(descriptor: int, order: dict[str, Any]) -> None:
    code = FAILED
    try:
        code = live(descriptor, order["path"], order["mode"], Kill(*order["kill"]) if order["kill"] else None)
    except BaseException:  # The process's outermost line: it never returns into the template's loop.
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
