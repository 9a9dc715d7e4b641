"""The rows that the state of a run is made of: what is kept of an event, and when it was."""

from dataclasses import dataclass
from typing import NamedTuple

from esper.events.envelope import EventId
from esper.events.kinds.control import FieldReported
from esper.events.kinds.epoch import Measured, StateDigests
from esper.events.kinds.run import BlamedSeed


@dataclass(frozen=True, slots=True)
class EpochRow:
    """A completed epoch: its losses and metrics, and the digests of the training state before its adaptation."""

    epoch: int
    step: int
    moment: int
    id: EventId
    train: Measured
    validation: Measured | None
    digests: StateDigests
    parameters: int


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint that is kept: the start of the epoch after `epoch`."""

    name: str
    digest: str
    size_bytes: int
    reason: str
    epoch: int
    moment: int


@dataclass(frozen=True, slots=True)
class RollbackRow:
    """A return to a checkpoint."""

    id: EventId
    moment: int
    epoch: int
    from_epoch: int
    to_epoch: int
    checkpoint: str
    reason: str
    blamed: BlamedSeed | None


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A field report and when it was made."""

    moment: int
    epoch: int
    event: FieldReported


class Irregularity(NamedTuple):
    """A fact that does not fit what came before it: where, and what about it."""

    moment: int
    what: str
