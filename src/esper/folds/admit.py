"""Admission: the one place that knows about duplicates, holes and incarnations.

A record of a run's writer is admitted by its sequence in (run, topic): the next one is applied, an earlier one is a duplicate, a later one
shows a hole. A derived record has no sequence and is admitted by its id. A verdict but `Apply` leaves the record itself outside:

* `Hole`: read the topic again from `from_`, then go on from there; everything read again is admitted as it comes. Reported once: until it
  is healed, what lies behind it is dropped as `behind_hole`, to be met again. Still open after reading again: FoldBlocked for facts,
  `Guard.passed_over` and a count for telemetry.
* `Expired`: retention has cut the front of a telemetry topic that was never read; count it, and admit the record again.
* `Drop` with `conflict` is a fault (check `log.conflict`), never a duplicate. What was applied first stays.

What is noticed here: a repeat of the *last* record of a topic, or of any derived one, with other bytes; a repeat of any earlier record by
another incarnation than the one that wrote its sequence; a record that an older incarnation wrote after a newer one. Not here: an older
record repeated by its own incarnation with other bytes (remembering all of them would cost a digest each: check `log.conflict`, over a
store), what lies before telemetry that was passed over (who wrote it is forgotten then), a record that does not follow from its
predecessor's chain (check `log.chain`), and one moment or fact number in two topics (`merge` for facts as long as the first of them waits,
else `log.conflict`).
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b

from esper.errors import RuleError
from esper.events.envelope import Record, RunId
from esper.events.topics import TOPICS, TopicClass
from esper.folds.table import Table


class Reason(StrEnum):
    """Why a record is dropped. `conflict` is a fault, the others are in order."""

    DUPLICATE = "duplicate"
    BEHIND_HOLE = "behind_hole"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Stream:
    """What is remembered of one topic of one run.

    `sequence` is the last one applied, `fingerprint` its digest (empty where it was never seen), `lives` the incarnations that wrote the
    topic, each with the first sequence it is known to have written, `hole_to` the end of a hole that was reported and is still open.
    """

    sequence: int = 0
    fingerprint: bytes = b""
    lives: tuple[tuple[int, int], ...] = ()
    hole_to: int | None = None


@dataclass(frozen=True, slots=True)
class Guard:
    """What was admitted so far: a stream per (run, topic), and a digest per (run, id) of a derived record. Save both with a position.

    A derived record costs about 150 bytes, until its run is forgotten.
    """

    streams: Table[tuple[RunId, str], Stream] = field(default_factory=Table)
    derived: Table[tuple[RunId, str], bytes] = field(default_factory=Table)

    @classmethod
    def start(cls) -> "Guard":
        """A guard that has admitted nothing."""
        return cls()

    def hole(self, run: RunId, topic: str) -> tuple[int, int] | None:
        """The open hole of a topic, first and last missing sequence; None where there is none."""
        stream = self.streams.get((run, topic))
        return None if stream is None or stream.hole_to is None else (stream.sequence + 1, stream.hole_to)

    def passed_over(self, run: RunId, topic: str) -> "Guard":
        """This guard with the open hole of a telemetry topic taken as lost.

        Raises RuleError without an open hole, and for facts: they are never lost.
        """
        stream = self.streams.get((run, topic))
        if stream is None or stream.hole_to is None:
            raise RuleError(f"expected an open hole in topic {topic} of run {run}, got none")
        if topic in TOPICS and TOPICS[topic].kind is TopicClass.FACT:
            raise RuleError(f"expected a topic of telemetry, got {topic} of run {run}: a missing fact blocks the run")
        # Nobody knows which incarnations wrote what is missing: what the last one wrote is known from behind the hole only.
        lives = tuple((incarnation, stream.hole_to + 1) for incarnation, _ in stream.lives[-1:])
        passed = Stream(sequence=stream.hole_to, lives=lives)
        return replace(self, streams=self.streams.with_item((run, topic), passed))

    def without(self, run: RunId) -> "Guard":
        """This guard with everything about `run` forgotten."""
        streams = Table((key, stream) for key, stream in self.streams.items() if key[0] != run)
        return Guard(streams, Table((key, fingerprint) for key, fingerprint in self.derived.items() if key[0] != run))


@dataclass(frozen=True, slots=True)
class Apply:
    """The record is new and the next one: fold it, and go on with `guard`."""

    guard: Guard


@dataclass(frozen=True, slots=True)
class Drop:
    """The record changes nothing; `what` says why in words."""

    reason: Reason
    what: str


@dataclass(frozen=True, slots=True)
class Hole:
    """The sequences `from_` to `to` of the record's topic are missing: read them again, then this record and what follows it."""

    guard: Guard
    from_: int
    to: int


@dataclass(frozen=True, slots=True)
class Expired:
    """The sequences up to `to` of a telemetry topic are gone for good: count them, and admit the record again with `guard`."""

    guard: Guard
    to: int


Verdict = Apply | Drop | Hole | Expired


def admit(guard: Guard, record: Record) -> Verdict:
    """What becomes of `record` after everything that `guard` has admitted."""
    if record.sequence is None:
        return _admit_derived(guard, record)
    stream = guard.streams.get((record.run, record.topic), Stream())
    if record.sequence <= stream.sequence:
        return _repeated(stream, record, record.sequence)
    if stream.lives and record.incarnation < stream.lives[-1][0]:
        return Drop(Reason.CONFLICT, f"{_named(record)}: incarnation {record.incarnation} wrote after incarnation {stream.lives[-1][0]}")
    if record.sequence == stream.sequence + 1:
        return Apply(_with(guard, record, _followed(stream, record, record.sequence)))
    return _admit_ahead(guard, stream, record, record.sequence - 1)


def _admit_ahead(guard: Guard, stream: Stream, record: Record, before: int) -> Verdict:
    if stream.hole_to is not None:
        return Drop(Reason.BEHIND_HOLE, f"{_named(record)}: waits for sequences {stream.sequence + 1} to {stream.hole_to}")
    if stream.sequence == 0 and record.fact is None:
        return Expired(_with(guard, record, Stream(sequence=before)), before)
    return Hole(_with(guard, record, replace(stream, hole_to=before)), stream.sequence + 1, before)


def _with(guard: Guard, record: Record, stream: Stream) -> Guard:
    return replace(guard, streams=guard.streams.with_item((record.run, record.topic), stream))


def _admit_derived(guard: Guard, record: Record) -> Verdict:
    key = (record.run, record.id)
    known = guard.derived.get(key)
    if known is None:
        return Apply(replace(guard, derived=guard.derived.with_item(key, _fingerprint(record))))
    if known == _fingerprint(record):
        return Drop(Reason.DUPLICATE, f"{_named(record)}: {record.id} was derived before")
    return Drop(Reason.CONFLICT, f"{_named(record)}: {record.id} was derived before with other bytes")


def _followed(stream: Stream, record: Record, sequence: int) -> Stream:
    known = stream.lives and stream.lives[-1][0] == record.incarnation
    return Stream(
        sequence=sequence,
        fingerprint=_fingerprint(record),
        lives=stream.lives if known else (*stream.lives, (record.incarnation, sequence)),
        hole_to=None if stream.hole_to == sequence else stream.hole_to,
    )


def _repeated(stream: Stream, record: Record, sequence: int) -> Drop:
    wrote = next((incarnation for incarnation, first in reversed(stream.lives) if first <= sequence), record.incarnation)
    if wrote != record.incarnation:
        return Drop(Reason.CONFLICT, f"{_named(record)}: written by incarnation {record.incarnation}, before by incarnation {wrote}")
    if sequence == stream.sequence and stream.fingerprint not in {b"", _fingerprint(record)}:
        return Drop(Reason.CONFLICT, f"{_named(record)}: written before with other bytes")
    return Drop(Reason.DUPLICATE, f"{_named(record)}: applied before")


def _fingerprint(record: Record) -> bytes:
    """A digest of what a record says and where it stands, `writer` apart; the chain carries the rest of the envelope."""
    digest = blake2b(record.data, digest_size=16)
    digest.update(f"\x1f{record.id}\x1f{record.topic}\x1f{record.type}\x1f{record.epoch}\x1f{record.step}\x1f".encode())
    digest.update(record.chain or b"")
    return digest.digest()


def _named(record: Record) -> str:
    place = f"moment {record.moment}" if record.sequence is None else f"sequence {record.sequence}"
    return f"run {record.run}, topic {record.topic}, {place}"
