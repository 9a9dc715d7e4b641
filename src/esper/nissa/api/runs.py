"""Runs: which there are, and of one how it began, where it stands or stood, its seeds, their stages, its decisions and health."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from esper.events.codec import decode_as
from esper.events.envelope import Record
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.events.topics import LIFECYCLE
from esper.folds.run import RunState, digest
from esper.nissa.api.answers import Cursor, Limit, Moment, OfRun, sent, stamp
from esper.nissa.parts import Served
from esper.nissa.problems import responses
from esper.nissa.source import Known
from esper.nissa.views.records import HealthPage, HealthView, TransitionPage, TransitionView
from esper.nissa.views.runs import DecisionPage, DecisionRowView, RunPage, RunSummary, RunView, SeedsView, SlotView, Standing, StateView

router = APIRouter(prefix="/api/v1/runs", tags=["runs"])
_OF_A_RUN = responses(404, 409, 503)


@router.get("", response_model=RunPage, responses=responses(503))
def list_runs(
    served: Served,
    limit: Limit = 100,
    cursor: Annotated[str | None, Query(max_length=128, description="The last run of the page before.")] = None,
    standing: Annotated[Standing | None, Query(description="Only runs that stand so.")] = None,
) -> Response:
    """Every run, the newest first."""
    return sent(_page(served.source.runs(), limit, cursor, standing))


@router.get("/{run}", response_model=RunView, responses=_OF_A_RUN)
def show_run(asked: OfRun) -> Response:
    """How a run began, where it stands, what happened to it."""
    return asked.answer(lambda: _run_view(asked.source.summary(asked.run), asked.source.known(asked.run)))


@router.get("/{run}/state", response_model=StateView, responses=_OF_A_RUN)
def show_state(asked: OfRun, at: Annotated[Moment | None, Query(description="A moment; without it the last.")] = None) -> Response:
    """The state at a moment, by the fold that made it live, with its digest."""

    def view() -> StateView:
        if at is not None:
            state = asked.source.state(asked.run, at)
            return _state_view(state, at, digest(state))
        known = asked.source.known(asked.run)
        return _state_view(known.state, known.state.moment, known.digest)

    return asked.answer(view)


@router.get("/{run}/seeds", response_model=SeedsView, responses=_OF_A_RUN)
def show_seeds(asked: OfRun) -> Response:
    """The seed table as it stands, and every life there was with its stages."""

    def view() -> SeedsView:
        known = asked.source.known(asked.run)
        return SeedsView(run=asked.run, moment=known.state.moment, slots=_slots(known.state), lives=tuple(known.lives))

    return asked.answer(view)


@router.get("/{run}/transitions", response_model=TransitionPage, responses=_OF_A_RUN)
def list_transitions(asked: OfRun, cursor: Cursor = None, limit: Limit = 1000) -> Response:
    """Every stage that a seed entered, oldest first."""

    def view() -> TransitionPage:
        cut = asked.source.page(asked.run, cursor, limit, frozenset({LIFECYCLE}))
        found = tuple(_transition(record) for record in cut.records if record.type == SeedTransitioned.KIND)
        return TransitionPage(run=asked.run, transitions=found, cursor=cut.cursor, more=cut.more)

    return asked.answer(view)


@router.get("/{run}/decisions", response_model=DecisionPage, responses=_OF_A_RUN)
def list_decisions(
    asked: OfRun, after: Annotated[Moment, Query(description="Only decisions after this moment.")] = 0, limit: Limit = 1000
) -> Response:
    """Every decision with its numbers and what became of it, oldest first."""

    def view() -> DecisionPage:
        decisions = asked.source.known(asked.run).decisions
        first = bisect_right(decisions, after, key=lambda decision: decision.moment)
        chosen = tuple(decisions[first : first + limit])
        return DecisionPage(run=asked.run, decisions=chosen, after=chosen[-1].moment if first + limit < len(decisions) else None)

    return asked.answer(view)


@router.get("/{run}/health", response_model=HealthPage, responses=_OF_A_RUN)
def show_health(asked: OfRun, limit: Annotated[int, Query(ge=1, le=200, description="At most so many measurements.")] = 1) -> Response:
    """The newest measurements of the health of sites and seeds, oldest first."""
    return asked.answer(
        lambda: HealthPage(run=asked.run, measurements=tuple(map(_health, asked.source.latest(asked.run, SeedHealthMeasured, limit))))
    )


def _page(runs: Sequence[RunSummary], limit: int, cursor: str | None, standing: Standing | None) -> RunPage:
    found = [run for run in runs if standing is None or run.standing == standing]
    # Ids begin with their time, so the order is that of the names, newest first, whatever came since the page before.
    rest = [run for run in found if cursor is None or run.run < cursor]
    return RunPage(runs=tuple(rest[:limit]), cursor=rest[limit - 1].run if len(rest) > limit else None, total=len(found))


def _run_view(summary: RunSummary, known: Known) -> RunView:
    state = known.state
    started = state.started
    return RunView(
        summary=summary,
        status=state.status,
        moment=state.moment,
        epoch=state.epoch,
        step=state.step,
        incarnation=state.incarnation,
        digest=known.digest,
        blocked=known.blocked,
        settings={} if started is None else started.settings,
        sites=state.sites,
        rng_seed=None if started is None else started.rng_seed,
        code=None if started is None else started.code,
        packages={} if started is None else started.packages,
        data=() if started is None else started.data,
        determinism=None if started is None else started.determinism,
        hardware=None if started is None else started.hardware,
        checkpoints=state.checkpoints,
        rollbacks=state.rollbacks,
        notes=tuple(known.notes),
    )


def _state_view(state: RunState, at: int, digest_: str) -> StateView:
    return StateView(
        run=state.run,
        at=at,
        moment=state.moment,
        epoch=state.epoch,
        step=state.step,
        incarnation=state.incarnation,
        status=state.status,
        digest=digest_,
        epochs=state.epochs,
        seeds=_slots(state),
        decisions=tuple(map(DecisionRowView.model_validate, state.decisions)),
        open_commands=tuple(state.control.open_commands.values()),
        counts=state.control.counts,
        field_reports=state.field_reports,
        checkpoints=state.checkpoints,
        rollbacks=state.rollbacks,
        dropped=dict(state.dropped),
        irregularities=state.irregularities,
    )


def _slots(state: RunState) -> tuple[SlotView, ...]:
    return tuple(SlotView.model_validate(slot) for slot in state.slots.values())


def _transition(record: Record) -> TransitionView:
    event = decode_as(record, SeedTransitioned)
    return TransitionView(**stamp(record), **dict(event), cause=record.cause)


def _health(record: Record) -> HealthView:
    event = decode_as(record, SeedHealthMeasured)
    return HealthView(**stamp(record), health=event.health, last_adaptation_step=event.last_adaptation_step)
