"""Where a life of a run can be made to end by SIGKILL: named places in the product, found by wrapping its real functions.

Only a process that is meant to die calls `arm`. Nothing in the product knows of it.
"""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from esper import durable
from esper.events.kinds.kernels import KernelCompiled
from esper.events.kinds.run import RunFinished, RunRolledBack
from esper.oona import emitter, file, run_log
from esper.oona.catch_up import CatchUp
from esper.oona.emitter import Emitter
from esper.tolaria import adaptation, checkpoints, trainer

Function = Callable[..., Any]  # Any: wrappers pass on what they get, whatever it is.
When = Callable[..., bool]


class Kill(NamedTuple):
    """The life ends when `point` is passed for the `passes`-th time from the start of `epoch` on."""

    point: str
    epoch: int = 0
    passes: int = 1


class Fuse:
    """Counts passes from an epoch on."""

    def __init__(self, kill: Kill) -> None:
        self._epoch, self._left = kill.epoch, kill.passes
        self.now = 0

    def burnt(self) -> bool:
        """True at the pass that is to be the last."""
        if self.now >= self._epoch:
            self._left -= 1
        return self._left == 0


def die() -> None:
    """Ends this process at once, as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: object, name: str, make: Callable[[Function], Function]) -> None:
    """Replaces a function of the product by what `make` makes of it."""
    setattr(owner, name, make(getattr(owner, name)))


def arm(kill: Kill) -> None:
    """From now on this process dies at `kill`."""
    fuse = Fuse(kill)

    def noting(function: Function) -> Function:
        def seed_epoch(rng_seed: int, epoch: int) -> None:
            fuse.now = epoch
            function(rng_seed, epoch)

        return seed_epoch

    wrap(trainer, "seed_epoch", noting)
    POINTS[kill.point](fuse)


def _always(*_arguments: object, **_named: object) -> bool:
    return True


def _before(owner: object, name: str, *, when: When = _always, first: Function | None = None) -> Callable[[Fuse], None]:
    """Dies before the function does anything; `first` is called just before, with the same arguments."""

    def set_up(fuse: Fuse) -> None:
        def make(function: Function) -> Function:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                if when(*arguments, **named) and fuse.burnt():
                    if first is not None:
                        first(*arguments)
                    die()
                return function(*arguments, **named)

            return wrapped

        wrap(owner, name, make)

    return set_up


def _after(owner: object, name: str, *, when: When = _always, then: Function | None = None) -> Callable[[Fuse], None]:
    """Dies when the function has done its work, before it returns; `then` is called between, with the same arguments."""

    def set_up(fuse: Fuse) -> None:
        def make(function: Function) -> Function:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                result = function(*arguments, **named)
                if when(*arguments, **named) and fuse.burnt():
                    if then is not None:
                        then(*arguments)
                    die()
                return result

            return wrapped

        wrap(owner, name, make)

    return set_up


def _in_a_transaction(fuse: Fuse) -> None:
    """Dies between the rows of a group of records."""

    def make_append(append: Function) -> Function:
        def wrapped(writer: Any, records: tuple[Any, ...], reached: Any) -> None:
            if len(records) > 1 and fuse.burnt():
                wrap(file, "to_row", lambda to_row: lambda record: die() if record is records[1] else to_row(record))
            append(writer, records, reached)

        return wrapped

    wrap(run_log._Writer, "append", make_append)


def _at_the_commit(fuse: Fuse) -> None:
    """Dies in SQLite's commit hook: every row is inserted, nothing is committed."""

    def make(open_for_writing: Function) -> Function:
        def at_commit() -> bool:
            if fuse.burnt():
                die()
            return False  # Go on and commit.

        def wrapped(path: Path) -> apsw.Connection:
            connection: apsw.Connection = open_for_writing(path)
            connection.set_commit_hook(at_commit)
            return connection

        return wrapped

    wrap(file, "open_for_writing", make)


def _half_a_file(fuse: Fuse) -> None:
    """Dies when half of a checkpoint's file is written."""

    def make(write: Function) -> Function:
        def wrapped(name: str, content: bytes, folder: int) -> None:
            if fuse.burnt():
                write(name, content[: len(content) // 2], folder)
                die()
            write(name, content, folder)

        return wrapped

    wrap(durable, "_write_new", make)


def _is_checkpoint(name: object, *_arguments: object, **_folders: object) -> bool:
    return isinstance(name, str) and name.endswith(".partial")


def _is_kernel(path: Path, *_arguments: object) -> bool:
    return ".safetensors." in path.name


def _said(kind: type) -> When:
    return lambda _journal, event, **_clocks: isinstance(event, kind)


def _commit(training: Any, *_arguments: object) -> None:
    training.sink.commit()


def _forget_a_file(folder: Path) -> None:
    (folder / "manifest.json").unlink(missing_ok=True)


def _is_whole(folder: Path) -> bool:
    return not folder.name.endswith(".partial")


def _is_new_log(path: Path, *_arguments: object) -> bool:
    return path.name == file.RUN_FILE + ".new"


POINTS: Mapping[str, Callable[[Fuse], None]] = {
    "the log's file is made, not renamed": _before(Path, "rename", when=_is_new_log),
    "the log is empty": _before(Emitter, "emit"),
    "RunStarted is durable, no checkpoint yet": _before(
        trainer, "save_checkpoint", when=lambda _training, reason: reason == "start", first=_commit
    ),
    "in a transaction, between two rows": _in_a_transaction,
    "in COMMIT": _at_the_commit,
    "a group is durable, the writer does not know": _after(run_log._Writer, "append"),
    "a fact is durable, the next is not said": _after(Emitter, "emit", then=lambda emitter, *_: emitter.commit()),
    "telemetry is durable, the epoch goes on": _after(Emitter, "measure", then=lambda emitter, *_: emitter.commit()),
    "a decision is durable, its command is not": _before(adaptation, "_order", first=_commit),
    "CommandIssued is durable, not applied": _before(adaptation, "_apply"),
    "a command took effect, no outcome": _before(adaptation, "_record_applied"),
    "an outcome is said, not durable": _before(adaptation, "_remember"),
    "a kernel is written, not renamed": _before(Path, "replace", when=_is_kernel),
    "between KernelCompiled and KernelCharacterized": _after(
        Emitter, "emit", when=_said(KernelCompiled), then=lambda emitter, *_: emitter.commit()
    ),
    "a checkpoint's file is half written": _half_a_file,
    "before a checkpoint's rename": _before(os, "rename", when=_is_checkpoint),
    "after a checkpoint's rename, before CheckpointSaved": _after(os, "rename", when=_is_checkpoint),
    "CheckpointSaved is durable, nothing pruned": _before(checkpoints, "_kept"),
    "while pruning": _before(checkpoints, "remove_folder", when=_is_whole, first=_forget_a_file),
    "rolled back, not said": _before(Emitter, "emit", when=_said(RunRolledBack)),
    "RunRolledBack is durable, nothing after it": _after(
        Emitter, "emit", when=_said(RunRolledBack), then=lambda emitter, *_: emitter.commit()
    ),
    "catching up": _before(CatchUp, "match_next"),
    "RunResumed is durable, nothing after it": _after(emitter.Emitter, "_go_live", then=lambda one, *_: one.commit()),
    "streams ended, before RunFinished": _before(Emitter, "emit", when=_said(RunFinished)),
    "RunFinished is durable, before sealing": _before(run_log.RunLog, "seal"),
    "summary kept, before leaving WAL": _before(file, "leave_wal"),
    "out of WAL, before the mark": _before(file, "write_mark"),
}
