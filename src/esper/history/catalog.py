"""A list of runs: what each is and how far it got. A sealed run is described by its mark; no database is opened for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from pydantic import JsonValue

from esper.errors import EsperError
from esper.events.codec import decode, decode_as
from esper.events.envelope import RunId
from esper.events.fields import WORDS
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunStarted
from esper.events.topics import EPOCH, RUN
from esper.oona.contract import records_of
from esper.oona.directory import Directory, RunEntry
from esper.oona.run_log import RunLog

Standing = Literal["live", "finished", "failed", "interrupted", "unreadable"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One run in a list. `interrupted`: nobody writes it and it has not ended; `problem` says why it could not be read."""

    run: RunId
    standing: Standing
    task: str | None = None
    began: datetime | None = None
    epoch: int | None = None
    epochs: int | None = None
    validation_loss: float | None = None
    parameters: int | None = None
    holder: int | None = None
    sealed: bool = False
    problem: str | None = None


def listed(directory: Directory) -> Iterator[Listed]:
    """Every run of `directory`, the newest first, one after another. A run that cannot be read is listed with its problem."""
    for name in directory.names():
        one = described(directory, name)
        if one is not None:
            yield one


def described(directory: Directory, name: RunId) -> Listed | None:
    """The line of one run; None where there is no log yet. One that cannot be read is described by its problem."""
    try:
        entry = directory.entry(name)
        if entry is None:
            return None
        return _from_mark(entry, entry.summary) if entry.summary is not None else _from_log(directory, entry)
    except EsperError as error:
        return Listed(name, "unreadable", problem=str(error))


def _from_mark(entry: RunEntry, summary: Mapping[str, JsonValue]) -> Listed:
    metrics = summary.get("metrics")
    loss = metrics.get("validation_loss") if isinstance(metrics, dict) else None
    epochs = _whole(summary.get("epochs"))
    task = summary.get("task")
    return Listed(
        run=entry.run,
        standing="finished",
        task=task if isinstance(task, str) else None,
        began=began(entry.run),
        epoch=epochs,
        epochs=epochs,
        validation_loss=_number(loss),
        parameters=_whole(summary.get("parameters")),
        sealed=True,
    )


def _number(value: JsonValue) -> float | None:
    """What is not finite is one of three words."""
    return WORDS.get(value) if isinstance(value, str) else float(value) if isinstance(value, int | float) else None


def _whole(value: JsonValue) -> int | None:
    return value if isinstance(value, int) else None


def _from_log(directory: Directory, entry: RunEntry) -> Listed:
    started: RunStarted | None = None
    unended: Standing = "live" if entry.live else "interrupted"
    standing = unended
    ends: dict[str, Standing] = {RunFinished.KIND: "finished", RunFailed.KIND: "failed", RunResumed.KIND: unended}
    with directory.open(entry.run) as log:
        for record in records_of(log, frozenset({RUN})):
            if record.type == RunStarted.KIND:
                event = decode_as(record, RunStarted)
                started = event
            standing = ends.get(record.type, standing)
        last = _last_epoch(log)
    return Listed(
        run=entry.run,
        standing=standing,
        task=None if started is None else started.task,
        began=began(entry.run),
        epoch=0 if last is None else last.system.epoch,
        epochs=None if started is None else started.epochs,
        validation_loss=None if last is None else last.system.validation_loss,
        parameters=last.system.parameters if last is not None else None if started is None else started.parameters,
        holder=entry.holder,
    )


def _last_epoch(log: RunLog) -> EpochCompleted | None:
    events = map(decode, reversed(log.last(2, frozenset({EPOCH}))))  # The newest record may be the topic's StreamEnded.
    return next((event for event in events if isinstance(event, EpochCompleted)), None)


def began(run: RunId) -> datetime | None:
    """When the id of `run` was made: a UUIDv7 begins with its time (RFC 9562, section 5.7). None for an id of another form."""
    try:
        identity = UUID(run)
    except ValueError:
        return None
    if identity.version != 7:
        return None
    return datetime.fromtimestamp((identity.int >> 80) / 1000, UTC)
