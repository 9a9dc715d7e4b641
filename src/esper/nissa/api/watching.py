"""What was derived: alerts, anomalies, aggregates; of one run, and over all."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from esper.events.codec import decode, decode_as
from esper.events.envelope import Record
from esper.events.kinds.observability import (
    AlertFiring,
    AlertPending,
    AlertResolved,
    WindowAggregated,
)
from esper.events.topics import AGGREGATES, ALERTS, ANOMALIES
from esper.folds.monitoring.measurements import is_series_of
from esper.nissa.api.answers import RUN_REF, Cursor, Limit, OfRun, sent, stamp
from esper.nissa.parts import Served
from esper.nissa.problems import responses
from esper.nissa.views.records import (
    Aggregate,
    AggregatePage,
    AlertPage,
    AlertView,
    AnomalyPage,
    AnomalyView,
    FiringView,
    HistoryView,
    MetricHistory,
)

_OF_A_RUN = responses(404, 409, 503)
_STATES = {AlertPending.KIND: "pending", AlertFiring.KIND: "firing", AlertResolved.KIND: "resolved"}


router = APIRouter(prefix="/api/v1", tags=["watching"])


@router.get("/runs/{run}/alerts", response_model=AlertPage, responses=_OF_A_RUN)
def list_alerts(asked: OfRun, cursor: Cursor = None, limit: Limit = 100) -> Response:
    """Every change of an alert of a run, oldest first."""
    cut = asked.source.page(asked.run, cursor, limit, frozenset({ALERTS}))
    found = tuple(_alert(record) for record in cut.records if record.type in _STATES)
    return sent(AlertPage(run=asked.run, alerts=found, cursor=cut.cursor, more=cut.more))


@router.get("/runs/{run}/anomalies", response_model=AnomalyPage, responses=_OF_A_RUN)
def list_anomalies(asked: OfRun, cursor: Cursor = None, limit: Limit = 100) -> Response:
    """Values and trends of a run that were not expected, oldest first."""
    cut = asked.source.page(asked.run, cursor, limit, frozenset({ANOMALIES}))
    return sent(AnomalyPage(run=asked.run, anomalies=tuple(map(_anomaly, cut.records)), cursor=cut.cursor, more=cut.more))


@router.get("/runs/{run}/aggregates", response_model=AggregatePage, responses=_OF_A_RUN)
def list_aggregates(asked: OfRun, cursor: Cursor = None, limit: Limit = 100) -> Response:
    """Windows of a run's metrics, oldest first."""
    cut = asked.source.page(asked.run, cursor, limit, frozenset({AGGREGATES}))
    return sent(AggregatePage(run=asked.run, aggregates=tuple(map(_aggregate, cut.records)), cursor=cut.cursor, more=cut.more))


@router.get("/alerts", response_model=FiringView, responses=responses(503))
def list_firing(served: Served) -> Response:
    """What fires now, over all runs that are followed."""
    return sent(FiringView(alerts=tuple(map(_alert, served.source.firing()))))


@router.get("/metrics/history", response_model=HistoryView, responses=_OF_A_RUN)
def show_history(
    served: Served,
    run: Annotated[str, Query(pattern=RUN_REF, max_length=128, description="A run; without it the newest.")] = "latest",
    metric: Annotated[str | None, Query(max_length=1000, description="Only this metric, or one series of it.")] = None,
) -> Response:
    """The last 100 windows of every metric of a run, from the log."""
    name = served.source.resolve(run)
    kept: dict[tuple[str, str], list[Aggregate]] = {}
    for window in served.source.aggregates(name):
        if metric is None or is_series_of(window.metric, metric):
            kept.setdefault((window.topic, window.metric), []).append(window)
    found = sorted(kept.items())
    metrics = tuple(MetricHistory(run=name, topic=topic, metric=known, windows=tuple(windows)) for (topic, known), windows in found)
    return sent(HistoryView(metrics=metrics))


def _alert(record: Record) -> AlertView:
    return AlertView.model_validate({**stamp(record), "run": record.run, "state": _STATES[record.type], **dict(decode(record))})


def _aggregate(record: Record) -> Aggregate:
    event = decode_as(record, WindowAggregated)
    return Aggregate(**dict(event), moment=record.moment)


def _anomaly(record: Record) -> AnomalyView:
    fields = {name: value for name, value in decode(record) if name in AnomalyView.model_fields}
    return AnomalyView.model_validate({**stamp(record), "kind": record.type, **fields})
