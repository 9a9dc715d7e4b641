"""The runs of a log, each in one line. A sealed run is described by its mark alone; the database of any other is opened.

`RunList` keeps the lines between questions: a sealed run's for good, any other until its files change. Between processes those of runs that
no process writes are kept in the user's cache, where they are many. Nothing is kept beside the runs: what stands there may have been
supplied, and a list believes it no more than it must.
"""

import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal, TypeVar
from uuid import UUID

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from esper.durable import replace_file
from esper.errors import AmbiguousRunError, EsperError, UnknownRunError
from esper.events.codec import decode, decode_as
from esper.events.envelope import RunId
from esper.events.fields import WORDS, Count, Float
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunStarted
from esper.events.topics import EPOCH, RUN
from esper.history.labels import LabelCondition
from esper.oona.contract import records_of
from esper.oona.directory import Directory, RunEntry
from esper.oona.file import RUN_FILE
from esper.settings import nearest, user_cache

_AGAIN_S = 1.0
_SHOWN = 10
_MANY = 50  # Fewer runs are opened in less than half a second.
_T = TypeVar("_T")

RunStatus = Literal["live", "finished", "failed", "interrupted", "unreadable"]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run in a list. `interrupted`: no process writes it and it has not ended; `problem` is the reason why it cannot be read."""

    run: RunId
    standing: RunStatus
    task: str | None = None
    began: datetime | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    validation_loss: Float | None = None
    parameters: Count | None = None
    name: str | None = None
    tags: tuple[str, ...] = ()
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    holder: Annotated[int | None, Field(exclude=True)] = None
    sealed: bool = False
    problem: str | None = None


class RunList:
    """The lines of `esper runs`, for any number of threads."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._lock = Lock()
        self._known: dict[RunId, tuple[object, RunSummary]] = {}  # With the state of the run's files when it was described.
        self._listed: tuple[RunSummary, ...] = ()
        self._listed_at = -_AGAIN_S

    @property
    def path(self) -> Path:
        """The log's directory."""
        return self._directory.path

    def lines(self) -> Sequence[RunSummary]:
        """The line of every run that is not hidden, the newest first; at most a second old."""
        with self._lock:
            if time.monotonic() >= self._listed_at + _AGAIN_S:
                names = self._directory.names()
                for gone in self._known.keys() - set(names):
                    del self._known[gone]
                self._listed = tuple(line for name in names if (line := self._line(name)) is not None)
                self._listed_at = time.monotonic()
            return self._listed

    def line(self, run: RunId) -> RunSummary | None:
        """The line of one run, as it is now; None where there is none."""
        with self._lock:
            return self._line(run)

    def resolve(self, ref: str) -> RunId:
        """The run that `ref` means, as `Directory.resolve`."""
        return _by_name(self._directory, ref, self.lines)

    def _line(self, run: RunId) -> RunSummary | None:
        files, line = self._known.get(run, (None, None))
        if line is not None and line.sealed:
            return line
        folder = self._directory.path / run
        entry = self._directory.entry(run)
        now = _stamp(folder), entry and (entry.holder, entry.live)
        if line is None or files != now:
            line = summary_of(self._directory, run)
            if line is not None:
                self._known[run] = (now, line)
        return line


def summaries(directory: Directory) -> Iterator[RunSummary]:
    """The line of every run of `directory`, the newest first. A run that cannot be read is listed with its problem."""
    kept = _KeptLines(directory)
    for name in directory.names():
        line = kept.line(name)
        if line is not None:
            yield line
    kept.save()


class _KeptLines:
    """The lines of one log in the user's cache. One holds for the very files that it was read from."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._path = user_cache() / "runs" / f"{hashlib.sha256(os.fsencode(directory.path.resolve())).hexdigest()[:16]}.json"
        self._found: dict[RunId, tuple[_Stamp, RunSummary]] = {}
        self._now: dict[RunId, tuple[_Stamp, RunSummary]] = {}
        with suppress(OSError, ValidationError):
            _, self._found = _kept_form().validate_json(self._path.read_bytes())

    def line(self, run: RunId) -> RunSummary | None:
        """The line of `run`, read where it may have changed; None where there is no log yet."""
        stamp = _stamp(self._directory.path / run)  # Before it is read: what is written meanwhile makes it another.
        found, line = self._found.get(run, (None, None))
        if line is None or found != stamp or self._is_in_use(run):
            line = summary_of(self._directory, run)
        if line is not None and line.standing in ("interrupted", "failed"):
            self._now[run] = stamp, line
        return line

    def _is_in_use(self, run: RunId) -> bool:
        try:
            entry = self._directory.entry(run)
        except EsperError:
            return True
        return entry is None or entry.sealed or entry.live or entry.mirrored

    def save(self) -> None:
        """Writes them for the user alone, where they are many; else nothing is kept. A cache that cannot be written is none."""
        with suppress(OSError):
            if len(self._now) < _MANY:
                self._path.unlink(missing_ok=True)
            elif self._now != self._found:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace_file(self._path, _kept_form().dump_json((1, self._now)))
                self._path.chmod(0o600)


_Stamp = tuple[tuple[int, ...], ...]
_Kept = tuple[Literal[1], dict[RunId, tuple[_Stamp, RunSummary]]]


@cache
def _kept_form() -> TypeAdapter[_Kept]:
    return TypeAdapter(_Kept, config=ConfigDict(ser_json_inf_nan="strings"))


VALUES = ("run", "standing", "task", "name", "epoch", "epochs", "validation_loss", "parameters")
"""Names of a run's line that a condition may compare, besides those of its config."""


def is_picked(line: RunSummary, tags: Collection[str], conditions: Iterable[LabelCondition]) -> bool:
    """True for a run that has all of `tags` and meets all of `conditions`."""
    values = {name: getattr(line, name) for name in VALUES} | {"config": line.config}
    return set(tags) <= set(line.tags) and all(one.holds(values) for one in conditions)


def resolve_run(directory: Directory, text: str) -> RunId:
    """The run that `text` means: as `Directory.resolve` has it, else the one run of that name.

    Raises UnknownRunError, or AmbiguousRunError with the candidates.
    """
    return _by_name(directory, text, lambda: tuple(summaries(directory)))


def _by_name(directory: Directory, text: str, lines: Callable[[], Sequence[RunSummary]]) -> RunId:
    try:
        return directory.resolve(text)
    except UnknownRunError as error:
        by_name = [(line.name, line.run) for line in lines() if line.name is not None]
        named = [run for name, run in by_name if name == text]
        if not named:
            hint = nearest(text, (name for name, _ in by_name))
            raise UnknownRunError(f"{error}{hint and hint + ' by its name'}") from None
        if len(named) > 1:
            raise AmbiguousRunError(
                f"{len(named)} runs have the name {text!r} in {directory.path}; there are: {', '.join(named[:_SHOWN])}"
            ) from None
        return named[0]


def began(run: RunId) -> datetime | None:
    """The time at which the id of `run`, a UUIDv7, was made (RFC 9562, section 5.7). None for an id of another form."""
    try:
        identity = UUID(run)
    except ValueError:
        return None
    return datetime.fromtimestamp((identity.int >> 80) / 1000, UTC) if identity.version == 7 else None


def summary_of(directory: Directory, run: RunId) -> RunSummary | None:
    """The line of one run; None where there is no log yet."""
    try:
        entry = directory.entry(run)
        if entry is None:
            return None
        return _of_log(directory, entry) if entry.summary is None else _of_mark(entry.run, entry.summary)
    except EsperError as error:
        return RunSummary(run, "unreadable", problem=str(error))


def _of_mark(run: RunId, mark: Mapping[str, JsonValue]) -> RunSummary:
    epochs = _typed(mark.get("epochs"), int)
    loss = (_typed(mark.get("metrics"), dict) or {}).get("validation_loss")
    return RunSummary(
        run=run,
        standing="finished",
        task=_typed(mark.get("task"), str),
        began=began(run),
        epoch=epochs,
        epochs=epochs,
        validation_loss=WORDS.get(loss) if isinstance(loss, str) else float(loss) if isinstance(loss, int | float) else None,
        parameters=_typed(mark.get("parameters"), int),
        name=_typed(mark.get("name"), str),
        tags=tuple(map(str, _typed(mark.get("tags"), list) or ())),
        config=_typed(mark.get("config"), dict) or {},
        sealed=True,
    )


def _typed(value: JsonValue, kind: type[_T]) -> _T | None:
    return value if isinstance(value, kind) else None


def _of_log(directory: Directory, entry: RunEntry) -> RunSummary:
    unended: RunStatus = "live" if entry.live else "interrupted"
    ends: dict[str, RunStatus] = {RunFinished.KIND: "finished", RunFailed.KIND: "failed", RunResumed.KIND: unended}
    standing, started = unended, None
    with directory.open(entry.run) as log:
        for record in records_of(log, frozenset({RUN})):
            if record.type == RunStarted.KIND:
                started = decode_as(record, RunStarted)
            standing = ends.get(record.type, standing)
        newest = map(decode, reversed(log.last(2, frozenset({EPOCH}))))  # The newest record may be the topic's StreamEnded.
        epoch = next((event.system for event in newest if isinstance(event, EpochCompleted)), None)
    grown = epoch or started
    return RunSummary(
        run=entry.run,
        standing=standing,
        task=started.task if started else None,
        began=began(entry.run),
        epoch=epoch.epoch if epoch else 0,
        epochs=started.epochs if started else None,
        validation_loss=epoch.validation_loss if epoch else None,
        parameters=grown.parameters if grown else None,
        name=started.name if started else None,
        tags=started.tags if started else (),
        config=started.config if started else {},
        holder=entry.holder,
    )


def _stamp(folder: Path) -> _Stamp:
    """Identities, sizes and times of the files of a run; an empty WAL, which any reader may leave behind, is none.

    The time of the inode's last change is nobody's to set.
    """
    found: list[tuple[int, ...]] = []
    for name in (RUN_FILE, f"{RUN_FILE}-wal"):
        with suppress(OSError):
            status = (folder / name).stat()
            if status.st_size:
                found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)
