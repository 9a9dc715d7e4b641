"""A run that failed fires for a day, not for ever."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.events import topics
from esper.events.envelope import RunId
from esper.history.alert_lines import current_alerts
from esper.nissa.custom_metrics import CustomMetrics
from esper.nissa.metrics import LogMetrics
from esper.observer.observing import Observer
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.observed import observed_records
from tests.observer.observed_runs import SETTINGS, problems
from tests.synthetic import RUN, started

LONG = timedelta(days=1, minutes=1)


@pytest.fixture
def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def failed(path: Path, at: datetime) -> Directory:
    """A log with a run that failed, observed then."""
    directory = Directory(path, create=True)
    with directory.create(RUN) as log, Emitter(log, RUN, clock=lambda: at) as emitter:
        emitter.emit(started(), epoch=0, step=0)
        emitter.fail("error", "the data server is gone", where="epoch 0, step 0", epoch=0, step=0)
    with Observer(directory, SETTINGS, now=lambda: at, from_start=True, report=problems.append) as observer:
        observer.turn(0.0)
    return directory


def listed(directory: Directory) -> list[str]:
    """The rules whose alerts are listed."""
    return [line.rule for line in current_alerts(directory, lambda error: pytest.fail(str(error)))]


def firing(directory: Directory, run: RunId = RUN) -> list[str]:
    """The rules whose alerts a service over the log shows."""
    metrics = LogMetrics(CustomMetrics(lambda _samples: None))
    with directory.open(run) as log:
        metrics.take(run, log.read(limit=100).records)
    metrics.take_derived(tuple(observed_records(directory.path / run, run, topics.ALERTS)))
    return [alert.event.rule for alert in metrics.firing()]


def test_it_fires_while_that_is_news(tmp_path: Path, now: datetime) -> None:
    directory = failed(tmp_path, now - timedelta(hours=1))
    assert listed(directory) == firing(directory) == ["run-failed"]


def test_it_does_not_fire_a_day_later(tmp_path: Path, now: datetime) -> None:
    directory = failed(tmp_path, now - LONG)
    assert listed(directory) == firing(directory) == []
