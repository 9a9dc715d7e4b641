"""Decisions of Tamiyo, the commands that passed the gate, and their outcomes."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from esper.events import topics
from esper.events.fields import VOLATILE, Count, Event, Float, Reference
from esper.events.kinds.lifecycle import OfLife


class Adaptation(StrEnum):
    """Adaptation that a decision asks for. `advance` is housekeeping; `none` records why nothing is done."""

    GERMINATE = "germinate"
    GRAFT = "graft"
    FOSSILIZE = "fossilize"
    CULL = "cull"
    CANCEL = "cancel"
    ADVANCE = "advance"
    NONE = "none"


class Command(StrEnum):
    """Command to Kasmina about a seed."""

    GERMINATE = "germinate"
    LOAD = "load"
    TRAIN = "train"
    GRAFT = "graft"
    STABILIZE = "stabilize"
    EVALUATE = "evaluate"
    FINE_TUNE = "fine_tune"
    FOSSILIZE = "fossilize"
    CULL = "cull"
    CANCEL = "cancel"
    RESET = "reset"


class DecisionMade(Event, kind="esper.decision.made.v1", topic=topics.DECISIONS):
    """A decision of Tamiyo, with confidence and urgency (0..1), its reason in words, and its evidence.

    Neither number is bounded here: a decision with an impossible one is recorded unchanged, and the gate refuses it.
    """

    adaptation: Adaptation
    site: str | None
    """Null for `none`."""
    seed: Count | None
    """The slot, 0 and up within its site; null for `none`."""
    blueprint: str | None = None
    """Of the seed; null where no seed is meant."""
    confidence: Float
    urgency: Float
    reason: Annotated[str, Field(min_length=1)]
    evidence: tuple[Reference, ...]
    """Ids of the records that the decision follows from."""


class _OfCommand(Event):
    command: Command
    site: str
    seed: Count
    """The slot, 0 and up within its site."""


class CommandIssued(_OfCommand, kind="esper.command.issued.v1", topic=topics.COMMANDS):
    """A decision passed the gate and became a command, valid until the end of `expires_epoch`; on disk before it takes effect."""

    blueprint: str | None
    kernel: str | None
    """Digest of the kernel's file, where one is to be loaded."""
    expires_epoch: Count


class CommandApplied(_OfCommand, kind="esper.command.applied.v1", topic=topics.OUTCOMES):
    """The command that is this event's cause took effect."""


class CommandRefused(_OfCommand, kind="esper.command.refused.v1", topic=topics.OUTCOMES):
    """The command that is this event's cause was refused and changed nothing."""

    reason: str


class CommandFailed(_OfCommand, kind="esper.command.failed.v1", topic=topics.OUTCOMES):
    """The command that is this event's cause failed and changed nothing."""

    error: Annotated[str, VOLATILE]


GateRule = Literal["finite", "legal", "embargo", "stale", "ready", "confidence", "urgency", "cap", "frequency", "cooldown"]


class DecisionRefused(Event, kind="esper.decision.refused.v1", topic=topics.OUTCOMES):
    """The decision that is this event's cause did not pass the gate; `rule` is the first that it broke."""

    rule: GateRule
    reason: str


class FieldReported(OfLife, kind="esper.field.reported.v1", topic=topics.FIELD_REPORTS):
    """Result of a blueprint at a site: the validation loss before and after, and the end of its seed. Feedback to Tamiyo."""

    blueprint: str
    kernel: str | None
    metric_before: Float | None
    metric_after: Float | None
    outcome: Literal["FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK"]
