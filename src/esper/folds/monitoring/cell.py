"""Cells: everything that follows from one topic of one run. Pure, and the same in every host: an observer of a directory, a stream worker.

A host keeps one cell for each (run, topic), hands it the topic's records in order, and writes the derived records. The derived records are
the same to their ids, however the records are grouped into batches, whenever a cell is saved and loaded, in whatever order the topics of a
run take turns, and on any host: an id depends on the cause, the rule with its version and settings, and the index alone. A record
that is handed in again changes nothing, so a cell is its own position in its topic.

The outcome of `advance` is

* `Applied`, with the derived records. Telemetry that cannot be decoded is set aside whole, in a dead letter, and the topic goes on;
* `Drop`: a duplicate, or a record behind a gap or behind a fact that blocks the topic;
* `Gap`: records are missing before it. A host that can read again hands in the missing ones and goes on from there. A host whose log has
  lost them calls `skip` and hands the record in again (telemetry), or `block` (facts);
* `Blocked`: a fact that cannot be decoded, or a conflict. The topic stops there; FoldBlocked is derived once. A version that understands
  the fact goes on from it when it is handed in again. A host whose fold raises at a record calls `block`, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from esper.errors import DataError, RuleError
from esper.events.codec import decode, encode
from esper.events.digests import derived_id
from esper.events.envelope import Record
from esper.events.fields import CONFIG, Event
from esper.events.kinds.observability import FoldBlocked
from esper.events.topics import DEAD_LETTER_SUFFIX, FACTS
from esper.folds.gaps_and_duplicates import Admission, Apply, Drop, Gap, Reason, admit, skip_gap
from esper.folds.monitoring.derive import RULE_VERSIONS, Derivation, MonitorSettings, TopicState, derive_events

_UNTOUCHED = TopicState()


@dataclass(frozen=True, slots=True)
class Cell:
    """The state of one topic of one run.

    `missing`: telemetry records that were skipped just before the next record. `blocked`: names the fact that blocks the topic.
    `dead_letters`: records that were set aside.
    """

    topic: str
    admission: Admission = field(default_factory=Admission)
    state: TopicState = _UNTOUCHED
    missing: int = 0
    blocked: FoldBlocked | None = None
    dead_letters: int = 0


class Applied(NamedTuple):
    """The record was applied. `event` is its content; None where it could not be decoded, and `derived` is its dead letter."""

    event: Event | None
    derived: tuple[Record, ...]


class Blocked(NamedTuple):
    """The record blocks the topic. `derived` is its FoldBlocked; empty where the topic was blocked by it for that reason before."""

    reason: str
    derived: tuple[Record, ...]


Outcome = Applied | Drop | Gap | Blocked


def advance(cell: Cell, record: Record, settings: MonitorSettings, writer: str) -> tuple[Cell, Outcome]:
    """`cell` after `record`, and the outcome. `writer` is the name in the derived records; their ids do not depend on it.

    An observer's own record has no sequence, and is applied without admission. Raises RuleError for a record of another topic.
    """
    if record.topic != cell.topic:
        raise RuleError(f"expected records of topic {cell.topic}, got {record.type} of topic {record.topic}, run {record.run}")
    if record.sequence is None:
        return _applied(cell, record, decode(record), settings, writer)
    blocked = cell.blocked
    if blocked is not None and record.sequence > blocked.sequence:
        return cell, Drop(Reason.BLOCKED, f"sequence {blocked.sequence} of topic {cell.topic} blocks it: {blocked.reason}")
    verdict = admit(cell.admission, record)
    if isinstance(verdict, Drop) and verdict.reason is Reason.CONFLICT:
        return block(cell, record, verdict.detail, writer)
    if isinstance(verdict, Drop):
        healed = blocked is not None and record.sequence == blocked.sequence and verdict.reason is Reason.DUPLICATE
        return (replace(cell, blocked=None) if healed else cell), verdict
    if isinstance(verdict, Gap):
        return replace(cell, admission=verdict.admission), verdict
    return _admitted(cell, verdict, record, settings, writer)


def skip(cell: Cell) -> Cell:
    """`cell` with the open gap of its telemetry topic taken as lost. Raises RuleError without an open gap, and for a topic of facts."""
    admission = skip_gap(cell.admission, cell.topic)
    return replace(cell, admission=admission, missing=cell.missing + admission.sequence - cell.admission.sequence)


def block(cell: Cell, record: Record, reason: str, writer: str) -> tuple[Cell, Blocked]:
    """`cell` blocked by `record`, which cannot be applied for `reason`."""
    assert record.sequence is not None, "an observer's own records block nothing"
    event = FoldBlocked(topic=cell.topic, sequence=record.sequence, reason=reason)
    if cell.blocked == event:
        return cell, Blocked(reason, ())
    identity = derived_id(record.id, f"blocked: {reason}", 1, "", 0)
    derived = _follows(record, writer)._replace(id=identity, topic=event.TOPIC, type=event.KIND, data=encode(event))
    return replace(cell, blocked=event), Blocked(reason, (derived,))


def to_bytes(cell: Cell) -> bytes:
    """`cell` as JSON; equal cells have equal bytes."""
    return _SAVED_CELL.dump_json((_FORMAT, cell))


def from_bytes(saved: bytes) -> Cell:
    """The cell that `to_bytes` wrote. Raises DataError for anything else: the host folds the topic again."""
    try:
        _, cell = _SAVED_CELL.validate_json(saved)
    except ValidationError as error:
        raise DataError(f"expected a saved cell as this version writes it, got another: {error}") from error
    return cell


_FORMAT: Literal[4] = 4
"""The format of a saved cell; it is raised when a cell that was saved before would be read as another."""
# Only a type that has no configuration of its own, as a tuple, writes the NaN of a named tuple as a word.
_SAVED_CELL = TypeAdapter(tuple[Literal[4], Cell], config=ConfigDict(**CONFIG, ser_json_bytes="base64", val_json_bytes="base64"))


def _admitted(cell: Cell, verdict: Apply, record: Record, settings: MonitorSettings, writer: str) -> tuple[Cell, Outcome]:
    try:
        event = decode(record)
    except DataError as error:
        if record.topic in FACTS:
            return block(cell, record, str(error), writer)
        identity = derived_id(record.id, "dead-letter", 1, "", 0)
        letter = _follows(record, writer)._replace(id=identity, topic=record.topic + DEAD_LETTER_SUFFIX)
        set_aside = replace(cell, admission=verdict.admission, blocked=None, dead_letters=cell.dead_letters + 1)
        return set_aside, Applied(None, (letter,))
    healed = cell.blocked is not None and verdict.admission.sequence == cell.blocked.sequence
    admitted = replace(cell, admission=verdict.admission, blocked=None if healed else cell.blocked)
    return _applied(admitted, record, event, settings, writer)


def _applied(cell: Cell, record: Record, event: Event, settings: MonitorSettings, writer: str) -> tuple[Cell, Applied]:
    # A topic without metrics and rules has a state only where alerts of rules that are gone are left in it.
    if cell.topic not in settings.watched and cell.state == _UNTOUCHED:
        return replace(cell, missing=0), Applied(event, ())
    state, made = derive_events(cell.state, record, event, settings, cell.missing)
    return replace(cell, state=state, missing=0), Applied(event, _derived(record, made, settings.settings_digest, writer))


def _derived(record: Record, made: Sequence[Derivation], settings_digest: str, writer: str) -> tuple[Record, ...]:
    """The records of the events derived from `record`: its moment, time and clocks, one generation on."""
    follows = _follows(record, writer)
    return tuple(
        follows._replace(
            id=derived_id(record.id, rule, RULE_VERSIONS[rule], settings_digest, index),
            topic=event.TOPIC,
            type=event.KIND,
            data=encode(event),
        )
        for rule, events in made
        for index, event in enumerate(events)
    )


def _follows(record: Record, writer: str) -> Record:
    return record._replace(writer=writer, sequence=None, fact=None, generation=record.generation + 1, cause=record.id, chain=None)
