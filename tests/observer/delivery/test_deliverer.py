"""Handlers on threads of their own: what one does, or does not, is nothing to the others or to whoever offers."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from esper.errors import LogError, RuleError
from esper.events.envelope import RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.deliverer import Deliverer, DeliveryError, Handler
from esper.observer.delivery.notices import Notice
from esper.observer.delivery.outbox import AlertOutcome, AttemptResult, Limits
from tests.observer.delivery.made import BEGIN, DELIVERED, FAILED, LINK, RUN, alert, notified, outcome_record

LIMITS = Limits(rate_per_minute=6000.0, burst=100, attempts=3, first_pause_s=0.001)
LONG_S = 60.0


@dataclass
class Ledger:
    """Where outcomes go, and a way to wait for so many of them."""

    outcomes: list[tuple[RunId, AlertNotified | AlertSuppressed]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def record(self, outcomes: Sequence[AlertOutcome]) -> None:
        with self.changed:
            self.outcomes += [(alert.run, event) for alert, event in outcomes]
            self.changed.notify_all()

    def wait_for(self, count: int) -> list[tuple[str, str]]:
        """So many outcomes as (handler, what became of the alert), once they are there."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.outcomes) >= count, LONG_S)
            return [(event.handler, event.outcome if isinstance(event, AlertNotified) else event.why) for _, event in self.outcomes]


@dataclass
class Receiver:
    """A handler's other end: it keeps what it got, and answers as it is told."""

    answers: list[AttemptResult] = field(default_factory=list)
    got: list[Notice] = field(default_factory=list)

    async def send(self, notices: Sequence[Notice], now: datetime) -> AttemptResult:
        assert now == BEGIN
        self.got += notices
        return self.answers.pop(0) if self.answers else DELIVERED


class Stuck:
    """A handler that hangs until it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.let_go = threading.Event()

    async def send(self, notices: Sequence[Notice], now: datetime) -> AttemptResult:
        assert notices
        assert now == BEGIN
        self.reached.set()
        await asyncio.to_thread(self.let_go.wait, LONG_S)
        return DELIVERED


@contextmanager
def delivering(ledger: Ledger, *handlers: Handler, lives: bool | None = True) -> Iterator[Deliverer]:
    """A started deliverer, closed at the end."""
    deliverer = Deliverer(handlers, record=ledger.record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: lives)
    deliverer.start()
    try:
        yield deliverer
    finally:
        deliverer.close(0.0)


def test_every_handler_gets_the_alert_and_every_delivery_is_recorded() -> None:
    ledger, one, other = Ledger(), Receiver(), Receiver()
    with delivering(ledger, Handler("one", LIMITS, one.send), Handler("other", LIMITS, other.send)) as deliverer:
        deliverer.offer(alert(1).record)
        assert sorted(ledger.wait_for(2)) == [("one", "delivered"), ("other", "delivered")]
        assert [notice.fingerprint for notice in one.got + other.got] == [alert(1).event.fingerprint] * 2
        assert {run for run, _ in ledger.outcomes} == {RUN}


def test_an_outcome_is_recorded_before_the_next_message_is_sent() -> None:
    ledger, recorded = Ledger(), list[int]()

    async def send(_notices: Sequence[Notice], _now: datetime) -> AttemptResult:
        recorded.append(len(ledger.outcomes))
        return DELIVERED

    with delivering(ledger, Handler("team", LIMITS, send)) as deliverer:
        deliverer.offer(*(alert(number).record for number in range(20)))
        ledger.wait_for(20)
    assert recorded == list(range(20))


def test_a_handler_that_hangs_delays_nobody() -> None:
    ledger, stuck, other = Ledger(), Stuck(), Receiver()
    with delivering(ledger, Handler("stuck", LIMITS, stuck.send), Handler("other", LIMITS, other.send)) as deliverer:
        deliverer.offer(alert(1).record)
        assert stuck.reached.wait(LONG_S)
        for number in range(2, 50):
            deliverer.offer(alert(number).record)
        assert ledger.wait_for(49) == [("other", "delivered")] * 49
        assert deliverer.outstanding() == 49
        stuck.let_go.set()
        ledger.wait_for(98)
        deliverer.close(LONG_S)
        assert deliverer.outstanding() == 0


def test_a_handler_that_fails_is_tried_again_and_delays_nobody() -> None:
    ledger, failing, other = Ledger(), Receiver([FAILED, FAILED]), Receiver()
    with delivering(ledger, Handler("failing", LIMITS, failing.send), Handler("other", LIMITS, other.send)) as deliverer:
        deliverer.offer(alert(1).record)
        assert sorted(ledger.wait_for(2)) == [("failing", "delivered"), ("other", "delivered")]
    attempts = {event.handler: event.attempts for _, event in ledger.outcomes if isinstance(event, AlertNotified)}
    assert attempts == {"failing": 3, "other": 1}


def test_a_handler_that_goes_on_failing_is_recorded_as_failed() -> None:
    ledger, failing = Ledger(), Receiver([FAILED] * 3)
    with delivering(ledger, Handler("failing", LIMITS, failing.send)) as deliverer:
        deliverer.offer(alert(1).record)
        assert ledger.wait_for(1) == [("failing", "failed")]


def test_a_handler_that_breaks_takes_no_other_down() -> None:
    async def broken(notices: Sequence[Notice], now: datetime) -> AttemptResult:
        raise ZeroDivisionError(f"{notices} {now}")

    ledger, other = Ledger(), Receiver()
    with delivering(ledger, Handler("broken", LIMITS, broken), Handler("other", LIMITS, other.send)) as deliverer:
        deliverer.offer(alert(1).record)
        deliverer.offer(alert(2).record)
        assert sorted(ledger.wait_for(4)) == [("broken", "failed")] * 2 + [("other", "delivered")] * 2
    errors = {event.error for _, event in ledger.outcomes if isinstance(event, AlertNotified) and event.handler == "broken"}
    assert errors == {"the handler broke: ZeroDivisionError"}


def test_before_the_start_nothing_is_sent_and_what_is_settled_stays_so() -> None:
    ledger, receiver = Ledger(), Receiver()
    deliverer = Deliverer(
        [Handler("team", LIMITS, receiver.send)], record=ledger.record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True
    )
    for made in (alert(1), alert(2)):
        deliverer.offer(made.record)
    assert deliverer.outstanding(RUN) == 2
    deliverer.settled(outcome_record(RUN, notified(alert(1))))
    deliverer.settled(outcome_record(RUN, notified(alert(2), handler="one that is no more")))
    deliverer.start()
    ledger.wait_for(1)
    deliverer.close(LONG_S)
    assert [notice.fingerprint for notice in receiver.got] == [alert(2).event.fingerprint]


def test_closing_delivers_what_waits() -> None:
    ledger, receiver = Ledger(), Receiver([FAILED, FAILED])
    with delivering(ledger, Handler("team", LIMITS, receiver.send)) as deliverer:
        for number in range(20):
            deliverer.offer(alert(number).record)
        deliverer.close(LONG_S)
        assert deliverer.outstanding() == 0
    assert ledger.wait_for(20) == [("team", "delivered")] * 20


def test_closing_leaves_what_hangs_without_outcome() -> None:
    ledger, stuck = Ledger(), Stuck()
    with delivering(ledger, Handler("stuck", LIMITS, stuck.send)) as deliverer:
        deliverer.offer(alert(1).record)
        deliverer.offer(alert(2).record)
        assert stuck.reached.wait(LONG_S)
        deliverer.close(0.0)
        assert deliverer.outstanding() == 2
        assert ledger.outcomes == []
        stuck.let_go.set()


def test_what_cannot_be_recorded_stops_the_handler_and_is_raised_to_the_next_caller() -> None:
    receiver = Receiver()

    def full(outcomes: Sequence[AlertOutcome]) -> None:
        [(alert, event)] = outcomes
        raise LogError(f"no space left for {alert.run}, {event.KIND}")

    deliverer = Deliverer([Handler("team", LIMITS, receiver.send)], record=full, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True)
    deliverer.start()
    deliverer.offer(alert(1).record)
    with pytest.raises(DeliveryError, match=r"handler team has stopped: no space left for .*, esper\.alert\.notified"):
        deliverer.close(LONG_S)
    with pytest.raises(DeliveryError):
        deliverer.offer(alert(2).record)


@pytest.mark.parametrize(("lives", "age_s", "sent"), [(True, 3600.0, 1), (False, 3600.0, 0), (False, 10.0, 1), (None, 10.0, 0)])
def test_what_fires_is_sent_again_while_its_run_lives_or_it_is_young(lives: bool | None, age_s: float, sent: int) -> None:
    ledger, receiver = Ledger(), Receiver()
    limits = Limits(resend_s=3600.0)
    deliverer = Deliverer(
        [Handler("team", limits, receiver.send)], record=ledger.record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: lives
    )
    old = alert(1, at_s=-age_s)
    deliverer.settled(outcome_record(RUN, notified(old)))
    deliverer.offer(old.record)
    deliverer.start()
    deliverer.offer(alert(2).record)
    ledger.wait_for(1)
    deliverer.close(LONG_S)
    assert [notice.fingerprint for notice in receiver.got] == [made.event.fingerprint for made in (*[old][:sent], alert(2))]


def test_records_of_other_kinds_are_refused() -> None:
    deliverer = Deliverer([], record=Ledger().record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True)
    with pytest.raises(RuleError, match="expected a record of AlertFiring or AlertResolved"):
        deliverer.offer(outcome_record(RUN, notified(alert(1))))
    with pytest.raises(RuleError, match="expected a record of AlertNotified or AlertSuppressed"):
        deliverer.settled(alert(1).record)
