"""An alert that a person has taken over is silent until then, and is told again when it still fires: by a real deliverer."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.events import topics
from esper.events.codec import decode
from esper.events.kinds.observability import AlertFiring, AlertNotified, AlertSuppressed
from esper.observer.delivery.deliverer import Deliverer, Handler, Recorder
from esper.observer.delivery.notices import Notice, linker
from esper.observer.delivery.outbox import AttemptResult, Limits
from esper.observer.observing import Observer
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.observed import observed_records
from tests.observer.observed_runs import SETTINGS, problems
from tests.synthetic import RUN, write_run
from tests.trails import acknowledged

NOON = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
UNTIL = "2026-03-01T14:00:00Z"
RULE = "loss-not-finite"
ENOUGH = Limits(rate_per_minute=1000, burst=1000)


class Post:
    """A log, a clock, and what its handler was told, by rule."""

    def __init__(self, path: Path) -> None:
        self.directory, self.now, self.told = Directory(path, create=True), NOON, list[str]()
        self._made: Deliverer | None = None

    async def send(self, notices: Sequence[Notice], _now: datetime) -> AttemptResult:
        """Takes every message."""
        self.told += [notice.labels["alertname"] for notice in notices]
        return AttemptResult(delivered=True)

    def _deliverer(self, record: Recorder) -> Deliverer:
        self._made = Deliverer(
            [Handler("team", ENOUGH, self.send)], record=record, now=lambda: self.now, link_to=linker(), lives=lambda _run: True
        )
        return self._made

    @contextmanager
    def observed(self) -> Iterator[Observer]:
        """An observer of the log with a deliverer."""
        with Observer(
            self.directory, SETTINGS, now=lambda: self.now, make_deliverer=self._deliverer, from_start=True, report=problems.append
        ) as observer:
            yield observer

    def turn(self, observer: Observer) -> list[str]:
        """What is told in a turn."""
        before = len(self.told)
        observer.turn(0.0)
        while self._made is None or self._made.outstanding():
            time.sleep(0.001)
        return self.told[before:]

    def acknowledge(self, fingerprint: str, until: str = UNTIL) -> None:
        """Takes an alert over, at the time of the clock."""
        append_to_trail(self.directory, [acknowledged(fingerprint, until)], lambda: self.now)

    def events(self) -> list[object]:
        """The changes of alerts and their outcomes."""
        return [decode(record) for record in observed_records(self.directory.path / RUN, RUN, topics.ALERTS)]

    def fingerprint(self) -> str:
        """That of the alert of RULE."""
        return next(event.fingerprint for event in self.events() if isinstance(event, AlertFiring) and event.rule == RULE)


@pytest.fixture
def post(tmp_path: Path) -> Post:
    """A log with a run that goes on and has alerts that fire."""
    made = Post(tmp_path)
    write_run(made.directory, finish=False)
    return made


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fingerprint of the alert, which is the same in every log with the run."""
    made = Post(tmp_path_factory.mktemp("before"))
    write_run(made.directory, finish=False)
    with made.observed() as observer:
        made.turn(observer)
    return made.fingerprint()


def test_an_alert_that_was_told_is_told_again_when_its_acknowledgement_is_over(post: Post) -> None:
    with post.observed() as observer:
        assert post.turn(observer).count(RULE) == 1
        post.acknowledge(post.fingerprint())
        post.now = NOON + timedelta(hours=1)
        assert RULE not in post.turn(observer)
        post.now = NOON + timedelta(hours=2)
        assert post.turn(observer) == [RULE]
        assert post.turn(observer) == []
    with post.observed() as observer:
        assert RULE not in post.turn(observer)


def test_one_that_is_acknowledged_before_anybody_was_told_is_silent_until_then_and_the_log_says_why(post: Post, fingerprint: str) -> None:
    post.acknowledge(fingerprint)
    with post.observed() as observer:
        assert RULE not in post.turn(observer)
    outcomes = [event for event in post.events() if isinstance(event, AlertNotified | AlertSuppressed) and event.fingerprint == fingerprint]
    assert [event.why for event in outcomes if isinstance(event, AlertSuppressed)] == ["acknowledged"]
    assert len(outcomes) == 1
    post.now = NOON + timedelta(hours=2)
    with post.observed() as observer:
        assert post.turn(observer) == [RULE]
        assert post.turn(observer) == []


def test_a_longer_acknowledgement_takes_the_place_of_the_one_before(post: Post, fingerprint: str) -> None:
    post.acknowledge(fingerprint)
    post.acknowledge(fingerprint, "2026-03-01T18:00:00Z")
    post.now = NOON + timedelta(hours=2)
    with post.observed() as observer:
        assert RULE not in post.turn(observer)
        post.now = NOON + timedelta(hours=6)
        assert post.turn(observer) == [RULE]


def test_an_acknowledgement_silences_its_own_alert_alone(post: Post, fingerprint: str) -> None:
    post.acknowledge(fingerprint)
    with post.observed() as observer:
        assert "run-rolled-back" in post.turn(observer)
