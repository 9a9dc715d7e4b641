"""A run: its line in a list, its beginning, its state, its seeds and its decisions."""

from datetime import datetime
from typing import Literal

from pydantic import JsonValue

from esper.events.fields import Count, Float
from esper.events.kinds.control import Adaptation, Command
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, Stage
from esper.events.kinds.run import Code, DataFingerprint, Determinism, Hardware, Site
from esper.folds.control import CommandRow, Counts
from esper.folds.rows import CheckpointRow, EpochRow, Irregularity, ReportRow, RollbackRow
from esper.folds.run import Status
from esper.folds.seeds import LastCommand
from esper.nissa.views.view import View

Standing = Literal["live", "finished", "failed", "interrupted", "unreadable"]


class RunSummary(View):
    """A run in a list. `interrupted`: nobody writes it and it has not ended."""

    run: str
    standing: Standing
    task: str | None = None
    began: datetime | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    """Planned; null for a stream."""
    validation_loss: Float | None = None
    parameters: Count | None = None
    sealed: bool = False
    problem: str | None = None


class RunPage(View):
    """Runs, the newest first."""

    runs: tuple[RunSummary, ...]
    cursor: str | None
    """Goes on after these; null: there are no more."""
    total: Count


class NoteView(View):
    """Something that happened to the run itself, in words."""

    moment: Count
    epoch: Count
    kind: str
    text: str


class RunView(View):
    """A run: how it began, where it stands, and what happened to it."""

    summary: RunSummary
    status: Status
    moment: Count
    epoch: Count
    step: Count
    incarnation: Count
    digest: str
    """Of the state that the facts fold to."""
    blocked: str | None
    """Why the state is unknown from here on; null: it is known."""
    settings: dict[str, JsonValue]
    sites: tuple[Site, ...]
    rng_seed: int | None
    code: Code | None
    packages: dict[str, str]
    data: tuple[DataFingerprint, ...]
    determinism: Determinism | None
    hardware: Hardware | None
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    notes: tuple[NoteView, ...]


class SlotView(View):
    """One slot of the seed table."""

    row: SeedRow
    command: LastCommand | None


class DecisionRowView(View):
    """A decision since the last completed epoch, with its answer."""

    id: str
    moment: Count
    epoch: Count
    adaptation: Adaptation
    site: str | None
    seed: Count | None
    blueprint: str | None
    confidence: Float
    urgency: Float
    reason: str
    rule: str | None
    command: Command | None
    outcome: Literal["applied", "refused", "failed"] | None
    why: str | None


class StateView(View):
    """The state of a run at a moment."""

    run: str
    at: Count
    """The moment that was asked for."""
    moment: Count
    """Of the last fact at or before it."""
    epoch: Count
    step: Count
    incarnation: Count
    status: Status
    digest: str
    """sha256 over the state's canonical form; the same as the live fold's, on every machine."""
    epochs: tuple[EpochRow, ...]
    seeds: tuple[SlotView, ...]
    decisions: tuple[DecisionRowView, ...]
    """Since the last completed epoch."""
    open_commands: tuple[CommandRow, ...]
    counts: Counts
    field_reports: tuple[ReportRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    dropped: dict[str, Count]
    irregularities: tuple[Irregularity, ...]


class SpanView(View):
    """A stage of one life, from the end of `from_epoch` to the end of `to_epoch`; null while it lasts."""

    stage: Stage
    from_epoch: Count
    to_epoch: Count | None
    moment: Count
    reason: str


class LifeView(View):
    """One life of a seed, from germination to its end. `undone`: a rollback took it back altogether."""

    site: str
    seed: Count
    life: Count
    blueprint: str | None
    kernel: str | None
    stage: Stage
    spans: tuple[SpanView, ...]
    evaluation: SeedEvaluated | None
    undone: bool


class SeedsView(View):
    """The seed table as it stands, and every life there was, oldest first."""

    run: str
    moment: Count
    slots: tuple[SlotView, ...]
    lives: tuple[LifeView, ...]


class DecisionView(View):
    """One decision with its numbers, and what became of it."""

    id: str
    moment: Count
    epoch: Count
    adaptation: Adaptation
    site: str | None
    seed: Count | None
    blueprint: str | None
    confidence: Float
    urgency: Float
    reason: str
    evidence: tuple[str, ...]
    fate: Literal["pending", "applied", "refused", "command refused", "failed", "recorded"]
    rule: str | None
    """The first rule of the gate that it broke."""
    detail: str | None


class DecisionPage(View):
    """Decisions, oldest first."""

    run: str
    decisions: tuple[DecisionView, ...]
    after: Count | None
    """The moment to go on after; null: there are no more now."""
