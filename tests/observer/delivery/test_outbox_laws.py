"""What holds whatever is offered, answered and restarted: one outcome for each alert, order, limits, and no firing that is too old."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from esper.events.envelope import EventId
from esper.events.kinds.observability import AlertNotified
from esper.observer.delivery.notices import AlertRecord, RateLimitSummary
from esper.observer.delivery.outbox import AlertOutcome, AttemptResult, Limits, Outbox
from tests.observer.delivery.made import DELIVERED, FAILED, REFUSED, alert, now

LIMITS = Limits(rate_per_minute=12.0, burst=4, attempts=3, resend_s=45.0, deliver_within_s=120.0)

ANSWERS = st.sampled_from([DELIVERED, DELIVERED, FAILED, FAILED._replace(retry_after_s=20.0), REFUSED])
SHIFTS = st.sampled_from([0.0, 0.0, 0.2, 1.0, 7.0, 60.0, 200.0])


@dataclass
class World:
    """A handler's outbox, the log of its outcomes, and everything that was sent."""

    box: Outbox
    at_s: float = 0.0
    offered: list[AlertRecord] = field(default_factory=list)
    log: list[AlertOutcome] = field(default_factory=list)
    sent: list[tuple[float, AlertRecord, bool]] = field(default_factory=list)
    delivered_at: list[float] = field(default_factory=list)
    again: list[AlertRecord] = field(default_factory=list)

    def offer(self, made: AlertRecord) -> None:
        """Derives an alert and offers it."""
        self.offered.append(made)
        self.log += self.box.offer(made, now(self.at_s))

    def turn(self, answer: AttemptResult) -> bool:
        """One step of the handler's thread; false where nothing was to be sent."""
        step = self.box.next_step(now(self.at_s))
        self.log += step.outcomes
        match step.sending:
            case None:
                return False
            case AlertRecord() as made:
                self.sent.append((self.at_s, made, answer.delivered))
            case RateLimitSummary():
                pass
            case alerts:
                self.again += alerts
                assert alerts
        if answer.delivered and isinstance(step.sending, AlertRecord | RateLimitSummary):
            self.delivered_at.append(self.at_s)
        self.log += self.box.answered(step.sending, answer, now(self.at_s))
        return True

    def restart(self) -> None:
        """The process dies; the next one reads the log."""
        self.box = Outbox("team", LIMITS, lambda: 0.5)
        for record, event in self.log:
            self.box.settled(record.run, event)
        for made in self.offered:
            self.log += self.box.offer(made, now(self.at_s))
        self.delivered_at.clear()  # A new bucket is full.

    def drain(self) -> None:
        """Lets time pass until nothing waits."""
        for _ in range(2000):
            if not self.turn(DELIVERED):
                if not self.box.outstanding():
                    return
                until_s = self.box.next_step(now(self.at_s)).until_s
                assert until_s is not None
                self.at_s = max(self.at_s, until_s - 1000.0)
        raise AssertionError("it never ended")


def new_world() -> World:
    return World(Outbox("team", LIMITS, lambda: 0.5))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 11), st.booleans()),
        st.tuples(st.just("turn"), ANSWERS),
        st.tuples(st.just("wait"), SHIFTS),
        st.just(("restart",)),
    ),
    max_size=60,
)


def play(steps: list[tuple[object, ...]]) -> World:
    """Plays the steps; an alert fires once and is then resolved once, as rules make them."""
    world = new_world()
    begun: set[int] = set()
    ended: set[int] = set()
    for step in steps:
        match step:
            case ("offer", int(number), bool(over)):
                if number not in begun and not over:
                    begun.add(number)
                    world.offer(alert(number, at_s=world.at_s))
                elif number in begun and number not in ended and over:
                    ended.add(number)
                    world.offer(alert(number, firing=False, at_s=world.at_s))
            case ("turn", AttemptResult() as answer):
                world.turn(answer)
            case ("wait", float(shift_s)):
                world.at_s += shift_s
            case ("restart",):
                world.restart()
    return world


def outcomes_of(world: World) -> dict[EventId, list[str]]:
    """What became of each alert, in order."""
    found: dict[EventId, list[str]] = {made.record.id: [] for made in world.offered}
    for _, event in world.log:
        found[event.alert].append(event.outcome if isinstance(event, AlertNotified) else event.why)
    return found


@given(STEPS)
def test_every_alert_ends_with_one_outcome_and_only_one_that_failed_gets_another(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    world.drain()
    for outcomes in outcomes_of(world).values():
        assert outcomes, "an alert was lost"
        assert set(outcomes[:-1]) <= {"failed", "not_delivered"}


@given(STEPS)
def test_what_was_recorded_as_delivered_is_not_sent_again(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    world.drain()
    taken = Counter(made.record.id for _, made, delivered in world.sent if delivered)
    assert all(count == 1 for count in taken.values())


@given(STEPS)
def test_a_resolution_is_only_sent_after_its_firing_arrived(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    world.drain()
    arrived: set[str] = set()
    for _, made, delivered in world.sent:
        assert made.firing or made.event.fingerprint in arrived
        if delivered and made.firing:
            arrived.add(made.event.fingerprint)


@given(STEPS)
def test_whoever_was_told_that_it_fires_is_told_that_it_is_over(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    world.drain()
    arrived = {made.record.id for _, made, delivered in world.sent if delivered}
    for made in world.offered:
        if not made.firing and alert(int(made.event.fingerprint, 16)).record.id in arrived:
            assert outcomes_of(world)[made.record.id][-1] in {"delivered", "failed"}


@given(STEPS)
def test_nothing_is_said_to_fire_when_that_is_too_old(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    world.drain()
    firings = [(at_s, made) for at_s, made, _ in world.sent if made.firing]
    assert all((now(at_s).time - made.record.time).total_seconds() < LIMITS.deliver_within_s for at_s, made in firings)


@given(STEPS)
def test_no_window_sees_more_messages_than_the_limit_allows(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    world.drain()
    times = world.delivered_at
    for first in range(len(times)):
        for last in range(first, len(times)):
            allowed = LIMITS.burst + LIMITS.rate_per_minute / 60.0 * (times[last] - times[first])
            assert last - first + 1 <= allowed + 1e-6


@given(STEPS)
def test_what_is_over_is_never_sent_again_as_firing(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    world.drain()
    over = {made.event.fingerprint for made in world.offered if not made.firing}
    world.again.clear()
    for _ in range(5):
        world.at_s += LIMITS.resend_s or 0.0
        while world.turn(DELIVERED):
            pass
    assert over.isdisjoint(made.event.fingerprint for made in world.again)


@given(STEPS)
def test_the_next_step_is_asked_for_in_time(steps: list[tuple[object, ...]]) -> None:
    world = play(steps)
    while world.turn(DELIVERED):
        pass
    step = world.box.next_step(now(world.at_s))
    if step.until_s is not None:
        before = world.box.next_step(now(step.until_s - 1000.0 - 1e-3))
        assert (before.outcomes, before.sending) == ((), None)
        after = world.box.next_step(now(step.until_s - 1000.0 + 1e-6))
        assert after.outcomes or after.sending or after.until_s != step.until_s
