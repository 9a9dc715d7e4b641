"""A list of runs kept between questions: a sealed run is described once, any other again when its files changed, at most once a second."""

import os
import time
from collections.abc import Sequence
from threading import Lock

from esper.errors import RuleError
from esper.events.envelope import RunId, is_training
from esper.history.catalog import Listed, described
from esper.oona.directory import LATEST, Directory
from esper.oona.file import RUN_FILE, WRITER_LOCK
from esper.oona.lock import holder_of

_AGAIN_S = 1.0
_Look = tuple[tuple[int, int], tuple[int, int], int | None]


class UnknownRunError(RuleError):
    """No run begins or ends with what was asked for."""


class AmbiguousRunError(RuleError):
    """Several runs begin or end with what was asked for."""


class RunList:
    """The lines of `esper runs`, for any number of threads."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._lock = Lock()
        self._names: tuple[RunId, ...] = ()
        self._unmade: tuple[RunId, ...] = ()
        self._named_at = -_AGAIN_S
        self._changed = -1
        self._lines: dict[RunId, tuple[_Look | None, Listed]] = {}
        self._listed: tuple[Listed, ...] = ()
        self._listed_at = -_AGAIN_S

    def names(self, *, afresh: bool = False) -> Sequence[RunId]:
        """The ids of all runs, hidden ones too, the newest first; at most a second old, or as they are now."""
        with self._lock:
            return self._known_names(afresh=afresh)

    def lines(self) -> Sequence[Listed]:
        """The line of every run that is not hidden, the newest first; at most a second old."""
        with self._lock:
            if time.monotonic() >= self._listed_at + _AGAIN_S:
                names = [name for name in self._known_names(afresh=True) if is_training(name)]
                for gone in self._lines.keys() - set(names):
                    del self._lines[gone]
                self._listed = tuple(line for name in names if (line := self._line(name)) is not None)
                self._listed_at = time.monotonic()
            return self._listed

    def line(self, run: RunId) -> Listed | None:
        """The line of one run, as it is now; None where there is none."""
        with self._lock:
            return self._line(run)

    def resolve(self, ref: str) -> RunId:
        """The run that `ref` means: an id, its unique beginning or end, or `latest`. Raises UnknownRunError, AmbiguousRunError."""
        run = _resolve(ref, self.names()) or _resolve(ref, self.names(afresh=True))
        if run is None:
            raise UnknownRunError(f"expected a run of {self._directory.path}")
        return run

    def _known_names(self, *, afresh: bool) -> tuple[RunId, ...]:
        """Folders that have no file yet are looked at every time: a file that comes into one does not change the directory above."""
        changed, has_log = self._directory.path.stat().st_mtime_ns, self._directory.has_log
        if afresh or changed != self._changed or time.monotonic() >= self._named_at + _AGAIN_S or any(map(has_log, self._unmade)):
            names = self._directory.names(hidden=True)
            self._unmade = tuple(name for name in names if name not in self._lines and not has_log(name))
            self._names = tuple(name for name in names if name not in self._unmade)
            self._changed, self._named_at = changed, time.monotonic()
        return self._names

    def _line(self, run: RunId) -> Listed | None:
        look, line = self._lines.get(run, (None, None))
        if line is not None and line.sealed:
            return line
        now = _look(self._directory, run)
        if line is None or look != now:
            line = described(self._directory, run)
            if line is not None:
                self._lines[run] = (now, line)
        return line


def _resolve(ref: str, names: Sequence[RunId]) -> RunId | None:
    if ref in names:
        return RunId(ref)
    shown = [name for name in names if is_training(name)]
    if ref == LATEST:
        return shown[0] if shown else None
    meant = [name for name in shown if name.startswith(ref) or name.endswith(ref)]
    if len(meant) > 1:
        raise AmbiguousRunError(f"{len(meant)} runs begin or end so")
    return meant[0] if meant else None


def _look(directory: Directory, run: RunId) -> _Look:
    folder = directory.path / run
    return _size(os.fspath(folder / RUN_FILE)), _size(os.fspath(folder / (RUN_FILE + "-wal"))), holder_of(folder / WRITER_LOCK)


def _size(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - asked for thousands of runs; a Path costs more than the question.
    except OSError:
        return (-1, 0)
    return status.st_size, status.st_mtime_ns
