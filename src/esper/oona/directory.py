"""A log: a directory with one directory per run. Lists runs, finds them by what people type, and opens them.

Listing opens no database: a sealed run is described by its mark, any other by its lock.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from esper.errors import AmbiguousRunError, LogError, RuleError, UnknownRunError
from esper.events.envelope import TRAINER, RunId, is_training
from esper.oona import seal
from esper.oona.file import RUN_FILE, WRITER_LOCK, explained
from esper.oona.lock import holder_of
from esper.oona.place import make_place, mounted, refuse_network
from esper.oona.run_log import RunLog

LATEST = "latest"
_CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z:._-]{0,127}")
_SHOWN = 10


def new_run_id(time: datetime, randomness: bytes) -> RunId:
    """A UUIDv7 (RFC 9562, section 5.7) of `time` and ten random bytes: ids in order of time, whoever makes them."""
    if len(randomness) != 10:
        raise RuleError(f"expected 10 random bytes, got {len(randomness)}")
    number = int(time.timestamp() * 1000) << 80 | int.from_bytes(randomness, "big")
    number = number & ~(0xF << 76) | 0x7 << 76  # Version 7.
    number = number & ~(0x3 << 62) | 0x2 << 62  # Variant 10.
    digits = f"{number:032x}"
    return RunId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One line of a list of runs. `holder` is the pid that writes it now; `summary` stands in a sealed run's mark, None if unreadable."""

    run: RunId
    path: Path
    sealed: bool
    holder: int | None
    summary: Mapping[str, JsonValue] | None

    @property
    def live(self) -> bool:
        """True while a process writes the run."""
        return self.holder is not None


class Directory:
    """The log in one directory."""

    def __init__(self, path: Path | str, *, create: bool = False) -> None:
        self.path = Path(path)
        if create:
            make_place(self.path)
        with explained(self.path, "open"):
            if not self.path.is_dir():
                raise LogError(f"expected a log at {self.path}, got {'a file' if self.path.exists() else 'nothing'}")
        refuse_network(self.path, mounted())

    def create(self, run: RunId, writer: str = TRAINER) -> RunLog:
        """The new log of `run`, to be written. Raises LogError where the run exists."""
        return RunLog.create(self._folder(run), run, writer)

    def resume(self, run: RunId) -> RunLog:
        """The log of `run`, checked, to be written on. Raises LogError with the pid where another process writes it."""
        return RunLog.resume(self._existing(run))

    def open(self, run: RunId) -> RunLog:
        """The log of `run`, to be read."""
        return RunLog.open(self._existing(run))

    def seal_finished(self, run: RunId) -> bool:
        """True when `run` is sealed now: does what a writer could not do, because a reader held the file or because it was killed first.

        False for a run that is being written or did not finish, or that a reader holds open now. Raises LogError for a damaged file.
        """
        folder = self._existing(run)
        return seal.read_mark(folder) is not None or (holder_of(folder / WRITER_LOCK) is None and RunLog.seal_finished(folder))

    def checkpoints(self, run: RunId) -> Path:
        """The folder of the checkpoints of `run`; made by whoever saves one."""
        return self._folder(run) / _CHECKPOINTS

    def runs(self, *, hidden: bool = False) -> list[RunEntry]:
        """Every run, the newest first. Runs of machines and of nissa's own (`machine:...`, `nissa:...`) only when `hidden`."""
        return [entry for name in self.names(hidden=hidden) if (entry := self.entry(name)) is not None]

    def names(self, *, hidden: bool = False) -> list[RunId]:
        """The ids of all that may be runs, the newest first, without a look inside."""
        with explained(self.path, "list"), os.scandir(self.path) as found:
            names = [entry.name for entry in found if entry.is_dir() and _NAME.fullmatch(entry.name)]
        return [RunId(name) for name in sorted(names, reverse=True) if hidden or is_training(name)]

    def entry(self, run: RunId) -> RunEntry | None:
        """The line of `run`; None where there is no log yet (its process was killed while it made one)."""
        folder = self.path / run
        mark = seal.read_mark(folder)
        if mark is not None:
            return RunEntry(run, folder, sealed=True, holder=None, summary=seal.summary_of(mark))
        if not self.has_log(run):
            return None
        return RunEntry(run, folder, sealed=False, holder=holder_of(folder / WRITER_LOCK), summary=None)

    def has_log(self, run: RunId) -> bool:
        """True where `run` has a file, or may have one: whoever opens a folder that may not be looked into is told why."""
        try:
            return (self.path / run / RUN_FILE).exists()
        except OSError:
            return True

    def resolve(self, text: str) -> RunId:
        """The run that `text` means: `latest`, an id, or what only one id begins or ends with. Reads names; an id costs one look.

        Raises UnknownRunError or AmbiguousRunError with the candidates.
        """
        if _NAME.fullmatch(text) and self.has_log(RunId(text)):
            return RunId(text)
        runs = (name for name in self.names() if self.has_log(name))
        if text == LATEST:
            newest = next(runs, None)
            if newest is None:
                raise UnknownRunError(f"expected a run in {self.path}, got an empty log")
            return newest
        meant = [name for name in self.names() if text and (name.startswith(text) or name.endswith(text)) and self.has_log(name)]
        if len(meant) == 1:
            return meant[0]
        candidates = meant or list(runs)
        listed = ", ".join(candidates[:_SHOWN]) + (f" and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else "")
        problem = f"{len(meant)} runs begin or end with {text!r}" if meant else f"no run begins or ends with {text!r}"
        error = AmbiguousRunError if meant else UnknownRunError
        raise error(f"{problem} in {self.path}; there are: {listed or 'none'}")

    def _folder(self, run: RunId) -> Path:
        if not _NAME.fullmatch(run):
            raise RuleError(f"expected a run id of letters, digits and -_.:, got {run!r}")
        return self.path / run

    def _existing(self, run: RunId) -> Path:
        folder = self._folder(run)
        with explained(folder, "open"):
            exists = (folder / RUN_FILE).exists()
        if not exists:
            raise LogError(f"expected the log of run {run} at {folder / RUN_FILE}, got nothing")
        return folder
