"""Which runs a log may do without, and why the others stay. Nothing is removed here."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from esper.errors import EsperError
from esper.events.envelope import RunId, is_training
from esper.history.run_list import RunSummary, summary_of
from esper.history.trail import holds_in_force
from esper.oona.contract import START
from esper.oona.daily_run import AUDIT
from esper.oona.directory import Directory
from esper.oona.file import MIRRORED_MARK
from esper.oona.removal import disk_size


@dataclass(frozen=True, slots=True)
class OldRun:
    """A run that is old enough to go; `kept` is the reason why it stays, None where nothing keeps it."""

    run: RunId
    task: str | None
    standing: str
    ended: datetime
    records: int
    size_bytes: int
    kept: str | None


def old_runs(directory: Directory, before: datetime, tags: Collection[str], now: datetime, only: RunId | None = None) -> Iterator[OldRun]:
    """The runs (or `only` that one) whose last record was written before that time, oldest first, those of machines and metrics too.

    The trail stays, and so does a run that is held now, that a process writes, that has one of `tags`, or that cannot be read. Raises
    LogError where a part of the trail cannot be read, for a hold may stand there.
    """
    held = holds_in_force(directory, now.date())
    for run in reversed(directory.names(hidden=True)) if only is None else (only,):
        line = None if run.startswith(f"{AUDIT}:") else summary_of(directory, run)
        if line is None or line.problem is not None:
            continue
        try:
            with directory.open(run) as log:
                last = log.last()
                records = log.end().records_since(START)
        except EsperError:
            continue
        if last and last[0].time < before:
            yield OldRun(
                run,
                line.task,
                line.standing if is_training(run) else "ended",
                last[0].time,
                records,
                disk_size(directory.path / run),
                _kept(directory, line, held, tags),
            )


def _kept(directory: Directory, line: RunSummary, held: Collection[RunId], tags: Collection[str]) -> str | None:
    if line.run in held:
        return "it is held"
    if (directory.path / line.run / MIRRORED_MARK).exists():
        return "it is a copy from Kafka"
    if directory.is_live(line.run):
        return "a process writes it"
    if named := sorted(set(tags) & set(line.tags)):
        return f"it has the tag {named[0]}"
    return None
