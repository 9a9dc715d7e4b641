"""An alert that nobody was told of is handled where a person took it over in time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.audit.compliance.running import Verdict
from esper.events import topics
from esper.events.codec import decode
from esper.events.kinds.observability import AlertFiring
from esper.observer.observing import Observer
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.observed import observed_records
from tests.audit.compliance.asking import ask, named
from tests.observer.observed_runs import NOW, SETTINGS, problems
from tests.synthetic import RUN, write_run
from tests.trails import acknowledged

pytestmark = pytest.mark.whole
FIRED = datetime(2026, 3, 1, 12, 0, 4, tzinfo=UTC)


def observed(directory: Directory) -> set[str]:
    """The fingerprints of the alerts that fired in a run of which nobody delivered any."""
    write_run(directory)
    with Observer(directory, SETTINGS, now=lambda: NOW, from_start=True, report=problems.append) as observer:
        observer.turn(0.0)
    events = [decode(record) for record in observed_records(directory.path / RUN, RUN, topics.ALERTS)]
    return {event.fingerprint for event in events if isinstance(event, AlertFiring)}


@pytest.mark.parametrize(
    ("after", "verdict"), [(timedelta(minutes=5), Verdict.PASS), (timedelta(minutes=20), Verdict.FAIL), (None, Verdict.FAIL)]
)
def test_it_counts_in_time(directory: Directory, empty_projection: Path, after: timedelta | None, verdict: Verdict) -> None:
    fired = observed(directory)
    if after is not None:
        told = FIRED + after
        append_to_trail(directory, [acknowledged(one, "2026-03-01T14:00:00Z") for one in sorted(fired)], lambda: told)
    assert "alert.handled" in named(ask(directory, RUN, empty_projection), verdict)
