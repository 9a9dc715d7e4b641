"""What a handler sends, when, and what becomes of each alert; time is a number that the tests choose."""

from dataclasses import replace

import pytest

from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.notices import AlertRecord, RateLimitSummary
from esper.observer.delivery.outbox import _OPEN_AT_MOST, _REMEMBERED, AlertOutcome, AttemptResult, Limits, Outbox, Sending
from tests.observer.delivery.made import DELIVERED, FAILED, REFUSED, RUN, alert, notified, now, suppressed

LIMITS = Limits(rate_per_minute=60.0, burst=3, attempts=4)


def outbox(limits: Limits = LIMITS, jitter: float = 1.0) -> Outbox:
    return Outbox("team", limits, lambda: jitter)


def said(outcomes: tuple[AlertOutcome, ...]) -> list[tuple[str, str]]:
    """Each outcome as (the alert's id, what became of it)."""
    return [(event.alert, event.why if isinstance(event, AlertSuppressed) else event.outcome) for _, event in outcomes]


def deliver(box: Outbox, at_s: float) -> list[Sending]:
    """Delivers everything that is due."""
    sent: list[Sending] = []
    while (sending := box.next_step(now(at_s)).sending) is not None:
        box.answered(sending, DELIVERED, now(at_s))
        sent.append(sending)
    return sent


def test_an_alert_is_sent_at_once_and_its_delivery_recorded() -> None:
    box = outbox()
    assert box.offer(alert(1), now(0)) == ()
    step = box.next_step(now(0))
    assert step.sending == alert(1)
    outcomes = box.answered(alert(1), DELIVERED, now(1))
    assert outcomes == (AlertOutcome(alert(1).record, notified(alert(1))),)
    assert box.next_step(now(1)).sending is None
    assert box.outstanding() == 0


def test_an_alert_offered_again_is_not_sent_again() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    assert box.offer(alert(1), now(0)) == ()
    assert len(deliver(box, 0)) == 1
    assert box.offer(alert(1), now(1)) == ()
    assert deliver(box, 1) == []


def test_a_severity_below_the_handlers_is_not_its_business() -> None:
    box = outbox(replace(LIMITS, severity="warning"))
    assert box.offer(alert(1, severity="info"), now(0)) == ()
    assert box.outstanding() == 0
    box.offer(alert(2, severity="warning"), now(0))
    box.offer(alert(3, severity="critical"), now(0))
    assert box.outstanding() == 2


def test_a_failed_attempt_is_repeated_with_pauses_that_double() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    at_s, pauses = 0.0, []
    for _ in range(3):
        assert box.next_step(now(at_s)).sending == alert(1)
        assert box.answered(alert(1), FAILED, now(at_s)) == ()
        until_s = box.next_step(now(at_s)).until_s
        assert until_s is not None
        pauses.append(until_s - now(at_s).steady_s)
        at_s = until_s - 1000.0
    assert pauses == [1.0, 2.0, 4.0]


def test_chance_shortens_a_pause_to_half_at_most() -> None:
    box = outbox(jitter=0.0)
    box.offer(alert(1), now(0))
    box.answered(alert(1), FAILED, now(0))
    assert box.next_step(now(0)).until_s == now(0.5).steady_s


def test_a_receiver_that_asks_for_a_longer_pause_gets_it() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    box.answered(alert(1), FAILED._replace(retry_after_s=30.0), now(0))
    assert box.next_step(now(29.9)).sending is None
    assert box.next_step(now(30)).sending == alert(1)


def test_the_last_failed_attempt_makes_it_failed_with_the_error() -> None:
    box = outbox(replace(LIMITS, attempts=2))
    box.offer(alert(1), now(0))
    box.answered(alert(1), FAILED, now(0))
    [(record, event)] = box.answered(alert(1), FAILED, now(2))
    assert isinstance(event, AlertNotified)
    assert (record.run, event.outcome, event.attempts, event.error) == (RUN, "failed", 2, FAILED.error)
    assert box.outstanding() == 0


def test_what_was_refused_for_good_is_not_tried_again() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    assert said(box.answered(alert(1), REFUSED, now(0))) == [(alert(1).record.id, "failed")]


def test_an_alert_that_its_receiver_cannot_digest_delays_no_other() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    box.answered(alert(1), FAILED, now(0))
    box.offer(alert(2), now(0))
    assert deliver(box, 0) == [alert(2)]


def test_an_alert_that_is_too_old_is_stale() -> None:
    box = outbox()
    assert said(box.offer(alert(1), now(600))) == [(alert(1).record.id, "stale")]
    assert box.offer(alert(2), now(599.9)) == ()


def test_an_alert_that_grew_too_old_while_it_waited_is_stale() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    assert said(box.next_step(now(600)).outcomes) == [(alert(1).record.id, "stale")]


def test_the_resolution_of_what_was_delivered_is_sent_however_old_it_is() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    deliver(box, 0)
    assert box.offer(alert(1, firing=False, at_s=5), now(86_400)) == ()
    assert deliver(box, 86_400) == [alert(1, firing=False, at_s=5)]


def test_the_resolution_of_what_was_delivered_waits_for_its_token_however_long() -> None:
    box = outbox(replace(LIMITS, burst=1, rate_per_minute=0.05))
    box.offer(alert(1), now(0))
    deliver(box, 0)
    box.offer(alert(1, firing=False, at_s=5), now(5))
    assert box.next_step(now(1190)) == ((), None, now(1200).steady_s)
    assert deliver(box, 1200) == [alert(1, firing=False, at_s=5)]


def test_an_alert_that_grew_too_old_between_attempts_is_failed_and_says_why() -> None:
    box = outbox(replace(LIMITS, attempts=99))
    box.offer(alert(1), now(595))
    box.answered(alert(1), FAILED._replace(retry_after_s=60.0), now(595))
    assert box.next_step(now(595)).until_s == now(600).steady_s
    [(_, event)] = box.next_step(now(600)).outcomes
    assert isinstance(event, AlertNotified)
    assert (event.outcome, event.attempts) == ("failed", 1)
    assert event.error == "expected status 2xx, got 500; not tried again: older than 600 s"


def test_a_resolution_is_sent_after_its_firing_even_if_it_comes_meanwhile() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    box.offer(alert(1, firing=False), now(0))
    assert deliver(box, 0) == [alert(1), alert(1, firing=False)]


def test_a_resolution_waits_while_its_firing_is_tried_again() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    box.answered(alert(1), FAILED, now(0))
    box.offer(alert(1, firing=False), now(0))
    assert deliver(box, 0) == []
    assert deliver(box, 1) == [alert(1), alert(1, firing=False)]


def test_the_resolution_of_what_was_never_delivered_is_not_sent() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    box.offer(alert(1, firing=False), now(0))
    ids = [(alert(1).record.id, "failed"), (alert(1, firing=False).record.id, "not_delivered")]
    assert said(box.answered(alert(1), REFUSED, now(0))) == ids
    box.offer(alert(2), now(600))
    assert said(box.offer(alert(2, firing=False), now(600))) == [(alert(2, firing=False).record.id, "not_delivered")]


def test_the_resolution_of_what_only_was_pending_leaves_no_trace() -> None:
    box = outbox()
    assert box.offer(alert(1, firing=False), now(0)) == ()
    assert box.outstanding() == 0


def test_a_flood_sends_what_the_limit_allows_and_tells_of_the_rest_in_one_message() -> None:
    box = outbox()
    outcomes = [outcome for number in range(1_000) for outcome in said(box.offer(alert(number, severity="critical"), now(0)))]
    assert outcomes == [(alert(number).record.id, "rate_limit") for number in range(3, 1_000)]
    assert len(deliver(box, 0)) == 3
    assert deliver(box, 4.9) == []
    [sending] = deliver(box, 5)
    assert isinstance(sending, RateLimitSummary)
    assert (sending.severities.total(), sending.severities, sending.runs) == (997, {"critical": 997}, {RUN: 997})
    assert deliver(box, 1000) == []
    assert box.outstanding() == 0


def test_a_flood_that_goes_on_is_told_of_once_a_minute() -> None:
    box = outbox()
    told = []
    for second in range(180):
        for number in range(10):
            box.offer(alert(1000 * second + number, at_s=second), now(second))
        told += [(second, sending.severities.total()) for sending in deliver(box, second) if isinstance(sending, RateLimitSummary)]
    assert [second for second, _ in told] == [60, 121]


def test_held_back_resolutions_do_not_exist_they_wait_for_a_token() -> None:
    box = outbox()
    for number in range(3):
        box.offer(alert(number), now(0))
    deliver(box, 0)
    for number in range(3):
        assert box.offer(alert(number, firing=False), now(0)) == ()
    assert deliver(box, 0) == []
    assert box.next_step(now(0)).until_s == now(1).steady_s
    assert deliver(box, 1) == [alert(0, firing=False)]
    assert deliver(box, 3) == [alert(1, firing=False), alert(2, firing=False)]


def test_a_resolution_that_waits_goes_before_new_firings() -> None:
    box = outbox()
    for number in range(3):
        box.offer(alert(number), now(0))
    deliver(box, 0)
    box.offer(alert(0, firing=False), now(0))
    assert said(box.offer(alert(4), now(0.5))) == [(alert(4).record.id, "rate_limit")]
    assert said(box.offer(alert(5), now(1))) == [(alert(5).record.id, "rate_limit")]
    assert deliver(box, 1) == [alert(0, firing=False)]


def test_while_a_handler_hangs_no_more_than_a_burst_waits() -> None:
    box = outbox()
    for second in range(300):
        box.offer(alert(second, at_s=second), now(second))
    assert [type(sending) for sending in deliver(box, 300)] == [AlertRecord] * 3
    assert [type(sending) for sending in deliver(box, 301)] == [RateLimitSummary]


def test_a_message_about_held_back_alerts_that_fails_is_tried_again_with_the_same_count() -> None:
    box = outbox()
    for number in range(5):
        box.offer(alert(number), now(0))
    deliver(box, 0)
    first = box.next_step(now(5)).sending
    assert isinstance(first, RateLimitSummary)
    box.answered(first, FAILED, now(5))
    box.offer(alert(6), now(5))
    box.offer(alert(7), now(5))
    box.offer(alert(8), now(5))
    assert box.next_step(now(5.9)).sending == alert(6)
    box.answered(alert(6), DELIVERED, now(5.9))
    assert first in deliver(box, 6)


def test_what_was_given_up_is_not_told_for_ever() -> None:
    box = outbox()
    for number in range(5):
        box.offer(alert(number), now(0))
    deliver(box, 0)
    sending = box.next_step(now(5)).sending
    assert isinstance(sending, RateLimitSummary)
    box.answered(sending, REFUSED, now(5))
    assert deliver(box, 1000) == []
    assert box.outstanding() == 0


def test_before_the_end_the_message_about_held_back_alerts_is_due_at_once() -> None:
    box = outbox(replace(LIMITS, burst=1))
    box.offer(alert(1), now(0))
    box.offer(alert(2), now(0))
    deliver(box, 0)
    box.hurry(now(1))
    assert [type(sending) for sending in deliver(box, 1)] == [RateLimitSummary]


def test_only_a_handler_that_says_so_sends_again_what_fires() -> None:
    box = outbox(replace(LIMITS, resend_s=60.0))
    box.offer(alert(1), now(0))
    deliver(box, 0)
    box.offer(alert(2), now(30))
    deliver(box, 30)
    assert box.next_step(now(59)).sending is None
    assert deliver(box, 60) == [(alert(1), alert(2))]
    assert deliver(box, 119) == []
    assert deliver(box, 120) == [(alert(1), alert(2))]
    silent = outbox()
    silent.offer(alert(1), now(0))
    deliver(silent, 0)
    assert silent.next_step(now(500)).until_s is None


def test_what_is_over_is_not_sent_again_from_the_moment_that_it_is_known() -> None:
    box = outbox(replace(LIMITS, resend_s=60.0, burst=1, rate_per_minute=0.01))
    box.offer(alert(1), now(0))
    deliver(box, 0)
    box.offer(alert(1, firing=False, at_s=50), now(50))
    assert deliver(box, 100) == []


def test_what_could_not_be_sent_again_is_tried_sooner() -> None:
    box = outbox(replace(LIMITS, resend_s=60.0))
    box.offer(alert(1), now(0))
    deliver(box, 0)
    box.answered((alert(1),), FAILED, now(60))
    assert box.next_step(now(60)).until_s == now(61).steady_s
    assert deliver(box, 61) == [(alert(1),)]
    assert box.next_step(now(61)).until_s == now(121).steady_s


def read_back(*outcomes: AlertNotified | AlertSuppressed, limits: Limits = LIMITS) -> Outbox:
    """An outbox after a restart, with what was read back."""
    box = Outbox("team", limits, lambda: 1.0)
    for event in outcomes:
        box.settled(RUN, event)
    return box


def test_after_a_restart_what_has_an_outcome_is_not_sent_again() -> None:
    box = read_back(notified(alert(1)), suppressed(alert(2), "stale"), suppressed(alert(3, firing=False), "not_delivered"))
    for made in (alert(1), alert(2), alert(3, firing=False)):
        assert box.offer(made, now(1)) == ()
    assert deliver(box, 1) == []


def test_after_a_restart_what_has_no_outcome_is_sent() -> None:
    box = read_back(notified(alert(1)))
    box.offer(alert(1), now(1))
    box.offer(alert(2), now(1))
    box.offer(alert(1, firing=False), now(1))
    assert deliver(box, 1) == [alert(2), alert(1, firing=False)]


def test_after_a_restart_a_failed_alert_is_tried_once_more_while_it_is_young() -> None:
    box = read_back(notified(alert(1), "failed"), notified(alert(2), "failed"))
    assert box.offer(alert(1), now(599)) == ()
    assert deliver(box, 599) == [alert(1)]
    assert box.offer(alert(2), now(600)) == ()
    assert deliver(box, 600) == []


def test_after_a_restart_the_resolution_of_what_was_delivered_is_tried_again_however_old_it_is() -> None:
    box = read_back(notified(alert(1)), notified(alert(1, firing=False), "failed"))
    box.offer(alert(1), now(86_400))
    assert box.offer(alert(1, firing=False), now(86_400)) == ()
    assert deliver(box, 86_400) == [alert(1, firing=False)]


def test_after_a_restart_the_resolution_of_what_was_too_old_is_not_sent() -> None:
    box = read_back(suppressed(alert(1), "stale"))
    box.offer(alert(1), now(86_400))
    assert said(box.offer(alert(1, firing=False), now(86_400))) == [(alert(1, firing=False).record.id, "not_delivered")]
    assert deliver(box, 86_400) == []


def test_after_a_restart_the_resolution_of_a_failed_alert_follows_it() -> None:
    box = read_back(notified(alert(1), "failed"), suppressed(alert(1, firing=False), "not_delivered"))
    box.offer(alert(1), now(10))
    assert box.offer(alert(1, firing=False), now(10)) == ()
    assert deliver(box, 10) == [alert(1), alert(1, firing=False)]


def test_an_alert_that_failed_and_was_delivered_after_a_restart_is_done() -> None:
    box = read_back(notified(alert(1), "failed"), notified(alert(1)))
    box.offer(alert(1), now(1))
    assert deliver(box, 1) == []
    box.offer(alert(1, firing=False), now(1))
    assert deliver(box, 1) == [alert(1, firing=False)]


def test_after_a_restart_young_held_back_alerts_are_told_of_again() -> None:
    box = read_back(suppressed(alert(1), "rate_limit"), suppressed(alert(2), "rate_limit"))
    box.offer(alert(1), now(1))
    box.offer(alert(2, at_s=-700), now(1))
    [sending] = deliver(box, 61)
    assert isinstance(sending, RateLimitSummary)
    assert sending.severities.total() == 1


def test_after_a_restart_what_still_fires_is_sent_again_and_what_is_over_is_not() -> None:
    limits = replace(LIMITS, resend_s=60.0)
    box = read_back(notified(alert(1)), notified(alert(2)), notified(alert(2, firing=False)), limits=limits)
    for made in (alert(1), alert(2), alert(2, firing=False)):
        box.offer(made, now(3600))
    assert deliver(box, 3600) == [(alert(1),)]


def test_its_own_outcome_read_back_changes_nothing() -> None:
    box = outbox(replace(LIMITS, resend_s=60.0))
    box.offer(alert(1), now(0))
    deliver(box, 0)
    box.settled(RUN, notified(alert(1)))
    assert deliver(box, 60) == [(alert(1),)]


@pytest.mark.whole
def test_memory_is_bounded() -> None:
    box = outbox(replace(LIMITS, rate_per_minute=1e9))
    for number in range(_REMEMBERED + 1):
        box.offer(alert(number), now(number / 1000))
        deliver(box, number / 1000)
    for number in range(_OPEN_AT_MOST + 1):
        box.offer(alert(100_000 + number), now(700))
    box.next_step(now(700))
    assert len(box._known) == _REMEMBERED
    assert len(box._open) == len(box._missed) == _OPEN_AT_MOST


def test_an_answer_may_tell_of_refused_recipients_though_it_is_delivered() -> None:
    box = outbox()
    box.offer(alert(1), now(0))
    [(_, event)] = box.answered(alert(1), AttemptResult(delivered=True, error="1 of 3 recipients were refused"), now(0))
    assert isinstance(event, AlertNotified)
    assert (event.outcome, event.error) == ("delivered", "1 of 3 recipients were refused")
