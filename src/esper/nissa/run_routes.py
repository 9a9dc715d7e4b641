"""The routes about runs: the list, and how one began, where it stands, its states, seeds and decisions."""

from bisect import bisect_right
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field, JsonValue, StringConstraints

from esper.errors import SettingsError, UnknownRunError
from esper.events.fields import Count
from esper.events.kinds.control import DecisionMade
from esper.events.kinds.lifecycle import SeedEvaluated, Stage
from esper.events.kinds.run import Code, DataFingerprint, Determinism, Hardware, Site
from esper.events.kinds.training_description import TrainingDescribed
from esper.folds.control_state import CommandRow, Counts, Fate
from esper.folds.run_state import CheckpointRow, EpochRow, Irregularity, ReportRow, RollbackRow, Status, digest
from esper.folds.seeds import Slot
from esper.folds.timeline import Note, Span
from esper.history.labels import condition
from esper.history.run_list import VALUES, RunStatus, RunSummary, is_picked
from esper.nissa.backend import ByBackend, OfRun, PageSize, View, about_run, send, view_model, view_of
from esper.nissa.problems import ProblemError, responses

_Moment = Annotated[int, Query(ge=0, le=2**53)]
_OF_RUN = responses(404, 409, 503)
_Label = Annotated[str, StringConstraints(max_length=500)]
run_routes = APIRouter(prefix="/api/v1/runs", tags=["runs"])

_RunPage = view_model("RunPage", "Runs, the newest first.", runs=tuple[RunSummary, ...], cursor=str | None, total=Count)


class _GoneView(View):
    """Telemetry that is gone, from one sequence of its topic to another."""

    topic: str
    first: Count
    last: Count


class _LabelsView(View):
    """The labels of a run, as the user gave them."""

    name: str | None
    tags: tuple[str, ...]
    notes: str | None
    config: dict[str, JsonValue]


class _RunView(View):
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
    """The reason why the state is unknown from here on; null: it is known."""
    gone_records: Count
    """Number of telemetry records that this copy of the run lacks: Kafka had deleted them before they were copied."""
    gone: tuple[_GoneView, ...]
    settings: dict[str, JsonValue] = Field({})
    sites: tuple[Site, ...]
    labels: _LabelsView | None
    """Null: the run has not begun."""
    rng_seed: int | None = None
    code: Code | None = None
    packages: dict[str, str] = Field({})
    data: tuple[DataFingerprint, ...] = ()
    determinism: Determinism | None = None
    hardware: Hardware | None = None
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    notes: tuple[Note, ...]


class _DecisionView(View, DecisionMade):
    """A decision with its numbers and its fate."""

    id: str
    moment: Count
    epoch: Count
    fate: Fate
    rule: str | None
    """The first rule of the gate that it broke."""
    detail: str | None


_DecisionPage = view_model("DecisionPage", "Decisions, oldest first.", run=str, decisions=tuple[_DecisionView, ...], after=Count | None)


class _HowView(View, TrainingDescribed):
    """The training of a run."""

    run: str


class _StateView(View):
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
    seeds: tuple[Slot, ...]
    decisions: tuple[_DecisionView, ...]
    """Since the last completed epoch."""
    open_commands: tuple[CommandRow, ...]
    counts: Counts
    field_reports: tuple[ReportRow, ...]
    checkpoints: tuple[CheckpointRow, ...]
    rollbacks: tuple[RollbackRow, ...]
    dropped: dict[str, Count]
    irregularities: tuple[Irregularity, ...]


class _LifeView(View):
    """A life of a seed, from germination to its end. `undone`: a rollback took it back altogether."""

    site: str
    seed: Count
    life: Count
    blueprint: str | None
    kernel: str | None
    stage: Stage
    spans: tuple[Span, ...]
    evaluation: SeedEvaluated | None
    undone: bool


_SeedsView = view_model(
    "SeedsView",
    "The seed table as it stands, and every life there was, oldest first.",
    run=str,
    moment=Count,
    slots=tuple[Slot, ...],
    lives=tuple[_LifeView, ...],
)


@run_routes.get("", response_model=_RunPage, responses=responses(409, 503))
def list_runs(
    backend: ByBackend,
    *,
    limit: PageSize = 100,
    cursor: Annotated[str | None, Query(max_length=128, description="The last run of the page before.")] = None,
    standing: Annotated[RunStatus | None, Query(description="Only runs that stand so.")] = None,
    tag: Annotated[tuple[_Label, ...], Query(description="Only runs with all of these tags.")] = (),
    where: Annotated[tuple[_Label, ...], Query(description="Only runs where all of these hold, like `config.lr > 0.01`.")] = (),
) -> Response:
    """Every run, the newest first."""
    try:
        conditions = [condition(text, VALUES) for text in where]
    except SettingsError:
        words = f"expected a condition NAME OP VALUE of one of {', '.join(VALUES)} or config.<name>, like 'config.lr > 0.01'"
        raise ProblemError(409, "not-a-condition", words) from None
    lines = (run for run in backend.run_list.lines() if standing is None or run.standing == standing)
    found = [run for run in lines if is_picked(run, tag, conditions)]
    # Ids begin with their time, so the order of the names is newest first, and runs that began since the page before change nothing.
    rest = [run for run in found if cursor is None or run.run < cursor]
    chosen = tuple(rest[:limit])
    return send(view_of(_RunPage, runs=chosen, cursor=chosen[-1].run if len(rest) > limit else None, total=len(found)))


@run_routes.get("/{run}", responses=_OF_RUN)
@about_run
def show_run(asked: OfRun) -> _RunView:
    """A run: how it began, where it stands, what happened to it."""
    line = asked.backend.run_list.line(asked.run)
    if line is None:
        raise UnknownRunError(f"expected run {asked.run} in the log")
    with asked.backend.runs.use(asked.run) as run:
        known = run.history.known
        blocked = None if known.blocked is None else str(known.blocked)
        notes, started = tuple(known.timeline.notes), known.state.started
        gone = run.history.gone
        ranges = tuple(view_of(_GoneView, topic=topic, first=first, last=last) for topic, first, last in gone.ranges)
        labels = None if started is None else view_of(_LabelsView, started)
        told = {"labels": labels, "blocked": blocked, "notes": notes, "gone_records": gone.count, "gone": ranges}
        return view_of(_RunView, known.state, started, summary=line, digest=run.digest(), **told)


@run_routes.get("/{run}/how", responses=_OF_RUN)
@about_run
def show_how(asked: OfRun) -> _HowView:
    """The training of a run as its log had it last: model, optimizer, scheduler, loss, loaders, number formats, source."""
    with asked.backend.runs.use(asked.run) as run:
        described = run.history.known.timeline.described
    if described is None:
        raise ProblemError(404, "not-described", f"the log of run {asked.run} does not have how it was trained")
    return view_of(_HowView, described, run=asked.run)


@run_routes.get("/{run}/state", responses=_OF_RUN)
@about_run
def show_state(asked: OfRun, at: Annotated[_Moment | None, Query(description="A moment; without it the last.")] = None) -> _StateView:
    """The state at a moment, by the fold that made it live, with its digest."""
    with asked.backend.runs.use(asked.run) as run:
        if at is not None and at > run.history.end:
            raise ProblemError(404, "moment-not-reached", f"expected a moment from 0 to {run.history.end}, the last on disk")
        state = run.history.known.state if at is None else run.history.at(moment=at)
        digest_ = run.digest() if at is None else digest(state)
    return view_of(
        _StateView,
        state,
        state.control,
        at=state.moment if at is None else at,
        digest=digest_,
        seeds=tuple(state.slots.values()),
        decisions=tuple(view_of(_DecisionView, row, row.decision) for row in state.decisions),
        open_commands=tuple(state.control.open_commands.values()),
        dropped=dict(state.dropped),
    )


@run_routes.get("/{run}/seeds", response_model=_SeedsView, responses=_OF_RUN)
@about_run
def show_seeds(asked: OfRun) -> View:
    """The seed table as it stands, and every life there was with its stages."""
    with asked.backend.runs.use(asked.run) as run:
        state, lives = run.history.known.state, run.history.known.timeline.lives
    slots = tuple(state.slots.values())
    return view_of(_SeedsView, state, slots=slots, lives=tuple(view_of(_LifeView, life) for life in lives))


@run_routes.get("/{run}/decisions", response_model=_DecisionPage, responses=_OF_RUN)
@about_run
def list_decisions(
    asked: OfRun, after: Annotated[_Moment, Query(description="Only decisions after this moment.")] = 0, limit: PageSize = 1000
) -> View:
    """Every decision with its numbers and what became of it, oldest first."""
    with asked.backend.runs.use(asked.run) as run:
        decisions = run.history.known.timeline.decisions
    first = bisect_right(decisions, after, key=lambda decided: decided.moment)
    chosen = tuple(view_of(_DecisionView, one, one.decision) for one in decisions[first : first + limit])
    more = first + limit < len(decisions)
    return view_of(_DecisionPage, run=asked.run, decisions=chosen, after=chosen[-1].moment if more else None)
