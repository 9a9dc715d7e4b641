"""What messages say."""

import math
from collections import Counter

from esper.events.envelope import Moment, RunId
from esper.folds.monitoring.rules import Severity
from esper.observer.delivery.notices import RateLimitSummary, handler_test_notice, linker, notice_of, summary_notice
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert, now

OTHER = RunId("0195a000-0000-7000-8000-000000000000")


def test_a_notice_carries_key_labels_and_the_run_at_that_moment() -> None:
    notice = notice_of(alert(7, value=math.nan), LINK)
    assert (notice.fingerprint, notice.since, notice.status, notice.ended) == (f"{7:016x}", "2026-03-01T12:00:00.000250Z", "firing", None)
    assert notice.labels == {
        "alertname": "loss-not-finite",
        "severity": "warning",
        "topic": "telemetry.training.steps",
        "run": RUN,
        "metric": "loss",
    }
    command = f"esper show {RUN} --at 1234"
    assert notice.annotations == {"summary": "the loss is not a finite number", "moment": "1234", "command": command, "value": "nan"}
    assert notice.link == (command, None)


def test_a_resolution_says_when_it_was_over() -> None:
    notice = notice_of(alert(7, firing=False, at_s=30), LINK)
    assert (notice.status, notice.ended) == ("resolved", now(30).time)
    assert notice.since == notice_of(alert(7), LINK).since


def test_what_a_rule_says_itself_is_not_overwritten_but_identity_is() -> None:
    notice = notice_of(alert(7, labels={"run": "mine", "severity": "none"}, annotations={"moment": "then"}), LINK)
    assert notice.annotations["moment"] == "then"
    assert (notice.labels["run"], notice.labels["severity"]) == (RUN, "warning")
    assert notice.summary == "loss-not-finite"


def test_links_carry_options_and_a_page_where_there_is_one() -> None:
    link_to = linker(options=" --log /var/log/esper", base_url="https://nissa.example.org/")
    assert link_to(RUN, Moment(12)) == (
        f"esper show {RUN} --at 12 --log /var/log/esper",
        f"https://nissa.example.org/api/v1/runs/{RUN}/state?at=12",
    )
    assert link_to(RUN, None) == (f"esper alerts list {RUN} --log /var/log/esper", f"https://nissa.example.org/api/v1/runs/{RUN}/alerts")


def test_the_message_about_held_back_alerts_counts_them_and_takes_the_worst_severity() -> None:
    severities: Counter[Severity] = Counter({"info": 2, "critical": 10})
    summary = RateLimitSummary(alert(1).record, BEGIN, now(4).time, severities, Counter({RUN: 9, OTHER: 3}))
    notice = summary_notice(summary, "team", LINK)
    assert notice.summary == "12 alerts were held back by the rate limit of team: 10 critical, 2 info"
    assert notice.severity == "critical"
    assert notice.annotations["description"] == (
        f"9 of run {RUN}, 3 of other runs; between 2026-03-01T12:00:00.000250Z and 2026-03-01T12:00:04.000250Z. All of them are in the log."
    )
    summary.add(alert(2))
    assert notice.fingerprint == summary_notice(summary, "team", LINK).fingerprint
    assert notice.fingerprint != summary_notice(summary, "other", LINK).fingerprint


def test_a_trial_says_that_it_is_one() -> None:
    notice = handler_test_notice("team", BEGIN)
    assert (notice.name, notice.severity, notice.labels["alertname"]) == ("esper-test", "info", "esper-test")
    assert notice.summary.startswith("A test of the handler team")
