"""What a run's log says, held against what was acknowledged and against the run that was never killed.

Facts are compared by their place and their comparison form, ids in them resolved to topic and ordinal among comparable records. RunResumed,
SamplesDropped and RunFailed stand outside; so do heartbeats, which a clock writes, and every StreamEnded but a finished run's last ones.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pydantic import JsonValue

from esper.events.codec import decode
from esper.events.digests import comparison_form, to_json
from esper.events.envelope import EventId, Record
from esper.events.kinds.control import Command, CommandApplied
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import CheckpointPruned, RunFailed, RunFinished, RunResumed, RunRolledBack, RunStarted, StreamEnded
from esper.events.kinds.telemetry import Heartbeat
from esper.oona.catch_up import _OUTSIDE
from esper.oona.directory import Directory
from tests.folds.histories import fold
from tests.whole.kills.scenario import RUN

ANCHORS = frozenset({RunStarted.KIND, RunResumed.KIND, EpochCompleted.KIND})
ENVIRONMENT = ("code", "packages", "hardware")
# What two executions of the same training do not share: which record is which moment, and what of it stands in a checkpoint's files.
_OF_THE_EXECUTION = frozenset({"id", "moment", "size_bytes", "evaluated", "evidence"})


@dataclass(frozen=True)
class Faults:
    """Counts of what must not be, and in words the first of each."""

    lost: int = 0
    duplicated: int = 0
    diverged: int = 0
    gaps: int = 0
    words: tuple[str, ...] = ()

    def __add__(self, other: "Faults") -> "Faults":
        return Faults(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __bool__(self) -> bool:
        return bool(self.lost or self.duplicated or self.diverged or self.gaps)


@dataclass(frozen=True)
class Comparable:
    """One fact, or one telemetry record, as two executions of the same training must agree on it."""

    topic: str
    type: str
    epoch: int
    step: int
    cause: str
    text: str

    def __str__(self) -> str:
        return f"{self.type}, epoch {self.epoch}, step {self.step}, cause {self.cause}: {self.text[:2000]}"


def missing(whole: tuple[Record, ...]) -> tuple[str, ...]:
    """What makes resuming hard and does not happen in the run that nobody kills: a comparison with it would prove less than it claims."""
    events = [decode(record) for record in whole]
    applied = {event.command for event in events if isinstance(event, CommandApplied)}
    rollbacks = [event for event in events if isinstance(event, RunRolledBack)]
    needed = {
        **{command.value: command in applied for command in Command},
        "at least 30 epochs": max((record.epoch for record in whole), default=0) >= 30,
        "a rollback that blames a seed": any(event.blamed is not None for event in rollbacks),
        "a rollback that blames none": any(event.blamed is None for event in rollbacks),
        "a pruned checkpoint": any(isinstance(event, CheckpointPruned) for event in events),
        "telemetry": any(record.fact is None for record in whole),
    }
    return tuple(name for name, found in needed.items() if not found)


def records_of(path: Path) -> tuple[Record, ...]:
    """Every record of the run in log `path`; none where there is no log yet."""
    directory = Directory(path)
    if directory.entry(RUN) is None:
        return ()
    found: list[Record] = []
    with directory.open(RUN) as log:
        page = log.read(None, 1000)
        while page.records:
            found += page.records
            page = log.read(page.position, 1000)
    return tuple(found)


def lost(records: tuple[Record, ...], acknowledged: Mapping[str, str | None]) -> Faults:
    """Acknowledged records that the log does not have, or has with other bytes."""
    digests = {record.id: hashlib.sha256(record.data).hexdigest() for record in records}
    missing = [one for one, digest in acknowledged.items() if digests.get(EventId(one)) is None]
    changed = [one for one, digest in acknowledged.items() if digest is not None and digests.get(EventId(one), digest) != digest]
    return Faults(
        lost=len(missing) + len(changed), words=tuple(f"{one} was acknowledged and is not there as it was" for one in missing + changed)
    )


def gaps(records: tuple[Record, ...]) -> Faults:
    """Places where a sequence, the numbers of the facts, or the moments do not count on by one."""
    last: Counter[str] = Counter()
    words: list[str] = []
    for record in records:
        own = {f"sequence of {record.topic}": record.sequence}
        if record.fact is not None:
            own["fact"] = record.fact
        if record.type != Heartbeat.KIND:
            own["moment"] = record.moment
        for name, number in own.items():
            if number != last[name] + 1:
                words.append(f"{record.id}: {name} {number} after {last[name]}")
            last[name] = number or 0
    return Faults(gaps=len(words), words=tuple(words[:1]))


def comparables(records: tuple[Record, ...]) -> tuple[tuple[Comparable, ...], tuple[Comparable, ...]]:
    """(facts, telemetry) that two executions must agree on, in the log's order."""
    names: dict[EventId, str] = {}
    ordinals: Counter[str] = Counter()
    facts: list[Comparable] = []
    telemetry: list[Comparable] = []
    finished = bool(records) and records[-1].type == RunFinished.KIND
    ends = {record.topic: record.id for record in records if finished}
    for record in records:
        outside = ends.get(record.topic) != record.id if record.type == StreamEnded.KIND else record.type in _OUTSIDE
        # A topic of heartbeats, its end included, is there only where an execution lasted long enough for one.
        if outside or record.topic == Heartbeat.TOPIC:
            names[record.id] = record.type
            continue
        ordinals[record.topic] += 1
        names[record.id] = f"{record.topic} {ordinals[record.topic]}"
        (telemetry if record.fact is None else facts).append(_comparable(record, names))
    return tuple(facts), tuple(telemetry)


def _comparable(record: Record, names: dict[EventId, str]) -> Comparable:
    # The default cause is the last anchor, and after a resume that is RunResumed.
    value = comparison_form(decode(record), lambda one: names.get(one, f"unknown id {one}"))
    if record.type == RunStarted.KIND and isinstance(value, dict):
        value = {name: part for name, part in value.items() if name not in ENVIRONMENT}
    text = json.dumps(value, sort_keys=True)
    cause = "" if record.cause is None else names.get(record.cause, f"unknown id {record.cause}")
    if cause in _OUTSIDE or cause.startswith((RunStarted.TOPIC, EpochCompleted.TOPIC)):
        cause = "anchor"
    return Comparable(record.topic, record.type, record.epoch, record.step, cause, text)


def held_against(records: tuple[Record, ...], whole: tuple[Record, ...]) -> Faults:
    """What the log has twice, what is not as in the run that was never killed, and what says so itself (RunFailed, diverged).

    The log may be shorter than the whole run's: a life that was killed.
    """
    repeated = len(records) - len({record.id for record in records})
    failures = [event for record in records if isinstance(event := decode(record), RunFailed) and event.kind == "diverged"]
    found = Faults(duplicated=repeated, diverged=len(failures), words=tuple(one.error for one in failures))
    for ours, theirs in zip(comparables(records), comparables(whole), strict=True):
        again = Counter(ours) - Counter(theirs)
        twice = sum(count for one, count in again.items() if one in set(theirs))
        differing = [(one, other) for one, other in zip(ours, theirs, strict=False) if one != other]
        more = max(0, len(ours) - len(theirs))
        words = tuple(f"got {one}\nexpected {other}" for one, other in differing[:1])
        found += Faults(duplicated=twice, diverged=max(0, len(differing) + more - twice), words=words)
    return found


def at_the_end(records: tuple[Record, ...], whole: tuple[Record, ...]) -> Faults:
    """What is missing of a finished run, and where its folded state differs from that of the run that was never killed."""
    words: list[str] = []
    for ours, theirs in zip(comparables(records), comparables(whole), strict=True):
        if len(ours) != len(theirs):
            words.append(f"expected {len(theirs)} comparable records, got {len(ours)}")
    state, expected = state_of(records), state_of(whole)
    words += [f"state.{name}: expected {expected[name]}, got {state[name]}" for name in expected if state[name] != expected[name]]
    return Faults(diverged=len(words), words=tuple(words))


def state_of(records: tuple[Record, ...]) -> dict[str, JsonValue]:
    """The folded state of a run, without what belongs to the execution: ids, moments, how often it was resumed."""
    state = fold(records)
    parts: dict[str, object] = {
        "status": state.status,
        "epoch": state.epoch,
        "step": state.step,
        "epochs": state.epochs,
        "slots": tuple(state.slots.values()),
        "germination_epochs": state.germination_epochs,
        "decisions": state.decisions,
        "open_commands": len(state.control.open_commands),
        "counts": state.control.counts,
        "field_reports": state.field_reports,
        "checkpoints": state.checkpoints,
        "rollbacks": state.rollbacks,
        "dropped": state.dropped,
        "irregularities": tuple(one.what for one in state.irregularities),
    }
    return {name: _shared(to_json(part)) for name, part in parts.items()}


def _shared(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _shared(part) for name, part in value.items() if name not in _OF_THE_EXECUTION}
    if isinstance(value, list):
        return [_shared(part) for part in value]
    return value
