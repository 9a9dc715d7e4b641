"""Runs: which there are, and of one how it began, where it stands or stood, its seeds, their stages, its decisions and health."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.events.topics import LIFECYCLE
from esper.folds.run import RunState, digest
from esper.nissa.api.answers import Cursor, Limit, RunRef, sent, stamp, tagged, unchanged
from esper.nissa.problems import responses
from esper.nissa.source import Known, Source
from esper.nissa.views import (
    DecisionPage,
    HealthPage,
    HealthView,
    RunPage,
    RunSummary,
    RunView,
    SeedsView,
    SlotView,
    Standing,
    StateView,
    TransitionPage,
    TransitionView,
)

_OF_A_RUN = responses(404, 409, 503)
_HEALTH_LIMIT = Annotated[int, Query(ge=1, le=200, description="At most so many measurements.")]


def runs_router(source: Source) -> APIRouter:
    """The routes over `source`."""
    router = APIRouter(prefix="/api/v1/runs", tags=["runs"])

    @router.get("", response_model=RunPage, responses=responses(503))
    def list_runs(
        limit: Limit = 100,
        cursor: Annotated[str | None, Query(max_length=128, description="The last run of the page before.")] = None,
        standing: Annotated[Standing | None, Query(description="Only runs that stand so.")] = None,
    ) -> Response:
        """Every run, the newest first."""
        return sent(_page(source.runs(), limit, cursor, standing))

    @router.get("/{run}", response_model=RunView, responses=_OF_A_RUN)
    def show_run(request: Request, run: RunRef) -> Response:
        """How a run began, where it stands, what happened to it."""
        name = source.resolve(run)
        return unchanged(request, source, name, run) or tagged(
            request, source, name, run, _run_view(source.summary(name), source.known(name))
        )

    @router.get("/{run}/state", response_model=StateView, responses=_OF_A_RUN)
    def show_state(
        request: Request, run: RunRef, at: Annotated[int | None, Query(ge=0, le=2**53, description="A moment; without it the last.")] = None
    ) -> Response:
        """The state at a moment, by the fold that made it live, with its digest."""
        name = source.resolve(run)
        held = unchanged(request, source, name, run)
        if held is not None:
            return held
        state = source.known(name).state if at is None else source.state(name, at)
        return tagged(request, source, name, run, _state_view(state, state.moment if at is None else at))

    @router.get("/{run}/seeds", response_model=SeedsView, responses=_OF_A_RUN)
    def show_seeds(request: Request, run: RunRef) -> Response:
        """The seed table as it stands, and every life there was with its stages."""
        name = source.resolve(run)
        held = unchanged(request, source, name, run)
        if held is not None:
            return held
        known = source.known(name)
        view = SeedsView(run=name, moment=known.state.moment, slots=_slots(known.state), lives=tuple(known.lives))
        return tagged(request, source, name, run, view)

    @router.get("/{run}/transitions", response_model=TransitionPage, responses=_OF_A_RUN)
    def list_transitions(request: Request, run: RunRef, cursor: Cursor = None, limit: Limit = 1000) -> Response:
        """Every stage that a seed entered, oldest first."""
        name = source.resolve(run)
        held = unchanged(request, source, name, run)
        if held is not None:
            return held
        cut = source.page(name, cursor, limit, frozenset({LIFECYCLE}))
        found = tuple(_transition(record) for record in cut.records if record.type == SeedTransitioned.KIND)
        return tagged(request, source, name, run, TransitionPage(run=name, transitions=found, cursor=cut.cursor, more=cut.more))

    @router.get("/{run}/decisions", response_model=DecisionPage, responses=_OF_A_RUN)
    def list_decisions(
        request: Request,
        run: RunRef,
        after: Annotated[int, Query(ge=0, le=2**53, description="Only decisions after this moment.")] = 0,
        limit: Limit = 1000,
    ) -> Response:
        """Every decision with its numbers and what became of it, oldest first."""
        name = source.resolve(run)
        held = unchanged(request, source, name, run)
        if held is not None:
            return held
        later = [decision for decision in source.known(name).decisions if decision.moment > after]
        page = DecisionPage(run=name, decisions=tuple(later[:limit]), after=later[limit - 1].moment if len(later) > limit else None)
        return tagged(request, source, name, run, page)

    @router.get("/{run}/health", response_model=HealthPage, responses=_OF_A_RUN)
    def show_health(request: Request, run: RunRef, limit: _HEALTH_LIMIT = 1) -> Response:
        """The newest measurements of the health of sites and seeds, oldest first."""
        name = source.resolve(run)
        held = unchanged(request, source, name, run)
        if held is not None:
            return held
        found = tuple(map(_health, source.latest(name, SeedHealthMeasured, limit)))
        return tagged(request, source, name, run, HealthPage(run=name, measurements=found))

    return router


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
        digest=digest(state),
        blocked=known.blocked,
        settings={} if started is None else started.settings,
        sites=state.sites,
        rng_seed=None if started is None else started.rng_seed,
        parent=None if started is None else started.parent,
        code=None if started is None else started.code,
        packages={} if started is None else started.packages,
        data=() if started is None else started.data,
        determinism=None if started is None else started.determinism,
        hardware=None if started is None else started.hardware,
        checkpoints=state.checkpoints,
        rollbacks=state.rollbacks,
        notes=tuple(known.notes),
    )


def _state_view(state: RunState, at: int) -> StateView:
    return StateView(
        run=state.run,
        at=at,
        moment=state.moment,
        epoch=state.epoch,
        step=state.step,
        incarnation=state.incarnation,
        status=state.status,
        digest=digest(state),
        epochs=state.epochs,
        seeds=_slots(state),
        decisions=state.decisions,
        open_commands=tuple(state.control.open_commands.values()),
        counts=state.control.counts,
        field_reports=state.field_reports,
        checkpoints=state.checkpoints,
        rollbacks=state.rollbacks,
        setting_changes=state.setting_changes,
        dropped=dict(state.dropped),
        irregularities=state.irregularities,
    )


def _slots(state: RunState) -> tuple[SlotView, ...]:
    return tuple(SlotView.model_validate(slot) for slot in state.slots.values())


def _transition(record: Record) -> TransitionView:
    event = decode(record)
    assert isinstance(event, SeedTransitioned)
    return TransitionView(**stamp(record), **dict(event), cause=record.cause)


def _health(record: Record) -> HealthView:
    event = decode(record)
    assert isinstance(event, SeedHealthMeasured)
    return HealthView(**stamp(record), health=event.health, last_adaptation_step=event.last_adaptation_step)
