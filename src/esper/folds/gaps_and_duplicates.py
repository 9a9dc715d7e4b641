"""Admission of the records of one topic of one run, by sequence: the next record is applied, an earlier one is a duplicate, a later one
shows a gap. Pure; the host decides what a gap means.

* `Gap`: a host that can read again reads the missing sequences and what follows them. A gap is reported once: until it is closed, records
  behind it are dropped (`BEHIND_GAP`) and read again later. A host whose log has lost the records blocks a topic of facts, and skips the
  gap of a topic of telemetry (`skip_gap`).
* `Apply` with `expired`: retention has cut the front of a telemetry topic that was never read.
* `Drop` with `CONFLICT` is a fault, never a duplicate. The record that was applied first stays.

Conflicts that are found: the last record of a topic again, with other bytes; an earlier record from another incarnation than the one that
wrote its sequence; a record of an older incarnation after one of a newer. Not found: an earlier record again from its own incarnation with
other bytes (that would cost a digest each: check `log.conflict`, over a store); records before a skipped gap, whose writer is not known; a
record that does not follow from its predecessor's chain (check `log.chain`); one moment or fact number in two topics (`fact_order` for
facts as long as the first of them waits, else `log.conflict`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

from esper.errors import RuleError
from esper.events.envelope import Record
from esper.events.topics import FACTS


class Reason(StrEnum):
    """Reasons to drop a record. `CONFLICT` is a fault, the others are in order."""

    DUPLICATE = "duplicate"
    BEHIND_GAP = "behind_gap"
    BLOCKED = "blocked"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Admission:
    """The records of a topic that were admitted.

    `sequence`: the last one applied. `fingerprint`: its digest, empty where the record was never seen. `incarnations`: those that wrote the
    topic, each with the first sequence it is known to have written. `gap_to`: the last missing sequence of a gap that is open.
    """

    sequence: int = 0
    fingerprint: bytes = b""
    incarnations: tuple[tuple[int, int], ...] = ()
    gap_to: int | None = None

    @property
    def gap(self) -> tuple[int, int] | None:
        """The first and last missing sequence of the open gap; None where there is none."""
        return None if self.gap_to is None else (self.sequence + 1, self.gap_to)


class Apply(NamedTuple):
    """The record is the next one. `expired`: number of records before it that retention has cut."""

    admission: Admission
    expired: int = 0


class Drop(NamedTuple):
    """The record changes nothing; `detail` is the reason in words."""

    reason: Reason
    detail: str


class Gap(NamedTuple):
    """The sequences `from_` to `to` are missing before the record."""

    admission: Admission
    from_: int
    to: int


def admit(admission: Admission, record: Record) -> Apply | Drop | Gap:
    """The verdict on `record` after everything that `admission` has admitted. Raises RuleError for a record without a sequence."""
    sequence = record.sequence
    if sequence is None:
        raise RuleError(f"expected a record with a sequence, got derived record {record.id} of topic {record.topic}, run {record.run}")
    if sequence <= admission.sequence:
        return _repeated(admission, record, sequence)
    newest = admission.incarnations[-1][0] if admission.incarnations else 0
    if record.incarnation < newest:
        return Drop(Reason.CONFLICT, f"{_place(record)}: incarnation {record.incarnation} wrote after incarnation {newest}")
    expired = 0
    if sequence > admission.sequence + 1:
        if admission.gap is not None:
            return Drop(Reason.BEHIND_GAP, f"{_place(record)}: waits for sequences {admission.sequence + 1} to {admission.gap_to}")
        if admission.sequence or record.topic in FACTS:
            return Gap(replace(admission, gap_to=sequence - 1), admission.sequence + 1, sequence - 1)
        expired = sequence - 1
    incarnations = admission.incarnations if record.incarnation == newest else (*admission.incarnations, (record.incarnation, sequence))
    gap_to = None if admission.gap_to == sequence else admission.gap_to
    return Apply(Admission(sequence, _fingerprint(record), incarnations, gap_to), expired)


def skip_gap(admission: Admission, topic: str) -> Admission:
    """`admission` with the open gap of a telemetry topic taken as lost. Raises RuleError without an open gap, and for a topic of facts."""
    if admission.gap_to is None:
        raise RuleError(f"expected an open gap in topic {topic}, got none")
    if topic in FACTS:
        raise RuleError(f"expected a topic of telemetry, got {topic}: a missing fact blocks the run")
    # The incarnations that wrote the missing records are not known: what the last one wrote is known from behind the gap only.
    incarnations = tuple((incarnation, admission.gap_to + 1) for incarnation, _ in admission.incarnations[-1:])
    return Admission(sequence=admission.gap_to, incarnations=incarnations)


def _repeated(admission: Admission, record: Record, sequence: int) -> Drop:
    wrote = next((incarnation for incarnation, first in reversed(admission.incarnations) if first <= sequence), record.incarnation)
    if wrote != record.incarnation:
        return Drop(Reason.CONFLICT, f"{_place(record)}: written by incarnation {record.incarnation}, before by incarnation {wrote}")
    if sequence == admission.sequence and admission.fingerprint not in {b"", _fingerprint(record)}:
        return Drop(Reason.CONFLICT, f"{_place(record)}: written before with other bytes")
    return Drop(Reason.DUPLICATE, f"{_place(record)}: applied before")


def _fingerprint(record: Record) -> bytes:
    """A digest of a record's bytes and place, `writer` apart; the chain carries the rest of the envelope."""
    digest = blake2b(record.data, digest_size=16)
    digest.update(f"\x1f{record.id}\x1f{record.topic}\x1f{record.type}\x1f{record.epoch}\x1f{record.step}\x1f".encode())
    digest.update(record.chain or b"")
    return digest.digest()


def _place(record: Record) -> str:
    return f"run {record.run}, topic {record.topic}, sequence {record.sequence}"
