"""Records of a run, and what observers derived from them, over HTTP: of one run, and over all."""

import json
import math
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.observability import AlertResolved, TrendDetected, WindowAggregated
from esper.history.run_history import open_run
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.follower import Follower
from esper.oona.observed import Observed
from tests.nissa.samples import alert, anomaly, standing
from tests.nissa.server import Client, serving
from tests.synthetic import RUN, write_run
from tests.trails import acknowledged

SHORT = RUN[-6:]
WINDOWS = 130
QUEUES = ['esper_custom_queue{of="a"}', 'esper_custom_queue{of="b"}']


def window(number: int, metric: str) -> Record:
    """A window of a metric; one in a hundred has no number in it."""
    mean = float("nan") if number == 100 else float(number)
    statistics = {"mean": mean, "minimum": 0.0, "maximum": 1.0, "standard_deviation": 0.5, "count": 3}
    event = WindowAggregated(topic="telemetry.training.steps", metric=metric, starts_s=15.0 * number, length_s=15.0, **statistics)
    return standing(event, RUN)._replace(id=EventId(f"{metric}-{number}"), sequence=None, generation=1)


def trend() -> Record:
    """A plateau."""
    slopes = {"slope_per_s": 0.0, "slope_low": -0.1, "slope_high": 0.1}
    event = TrendDetected(topic="telemetry.training.steps", metric="loss", finding="plateau", limit=None, limit_in_s=None, **slopes)
    return standing(event, RUN)._replace(id=EventId("t" * 32), sequence=None, generation=1)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server over a finished run with an alert that still fires, and one that does not."""
    path = tmp_path_factory.mktemp("watched")
    write_run(Directory(path))
    resolved = alert(RUN, AlertResolved, "d" * 32)
    other = resolved._replace(data=resolved.data.replace(b"abab", b"cdcd"))
    with Observed(path / RUN, RUN) as observed:
        observed.save([anomaly(RUN), trend(), alert(RUN), other])
        observed.save([window(number, metric) for number in range(WINDOWS) for metric in ("loss", "gradient_norm")])
        observed.save([window(0, metric) for metric in QUEUES])
    with serving(path) as client:
        yield client


@pytest.fixture(scope="module")
def records(finished: Client) -> list[Record]:
    with open_run(RUN, finished.service.directory.path) as history:
        return list(history.records())


def test_events_page_by_page_are_the_log_byte_for_byte(finished: Client, records: list[Record]) -> None:
    found: list[bytes] = []
    cursor = ""
    while True:
        answer = finished.get(f"/api/v1/runs/{SHORT}/events?limit=60{cursor}")
        page = answer.json
        found += [event["id"].encode() for event in page["events"]]
        assert all(record.data in answer.body for record in records if record.id in {event["id"] for event in page["events"]})
        if not page["more"]:
            break
        cursor = f"&cursor={page['cursor']}"
    assert found == [record.id.encode() for record in records]


def test_events_of_a_topic(finished: Client, records: list[Record]) -> None:
    topic = SeedTransitioned.TOPIC
    page = finished.get(f"/api/v1/runs/{SHORT}/events?limit=1000&topic={topic}").json
    assert [event["id"] for event in page["events"]] == [record.id for record in records if record.topic == topic]


def test_a_topic_that_is_none_is_refused_with_how_topics_are_named(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/events?topic=run")
    assert answer.status == 422
    assert "named whole, like telemetry.training.steps" in answer.json["errors"][0]["detail"]


def test_transitions_are_those_of_the_log(finished: Client, records: list[Record]) -> None:
    page = finished.get(f"/api/v1/runs/{SHORT}/transitions").json
    logged = [json.loads(record.data) for record in records if record.type == SeedTransitioned.KIND]
    assert [(one["site"], one["seed"], one["to_stage"]) for one in page["transitions"]] == [
        (one["site"], one["seed"], one["to_stage"]) for one in logged
    ]


def test_health_is_the_last_that_was_measured(finished: Client, records: list[Record]) -> None:
    measured = [record for record in records if record.type == "esper.seed.health-measured.v1"]
    page = finished.get(f"/api/v1/runs/{SHORT}/health?limit=3").json
    assert [one["moment"] for one in page["measurements"]] == [record.moment for record in measured[-3:]]
    assert page["measurements"][-1]["health"] == json.loads(measured[-1].data)["health"]


def test_what_is_derived_is_empty_and_not_kept_where_nobody_observed(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/alerts")
    assert (answer.json["alerts"], answer.headers["cache-control"]) == ([], "no-store")


@pytest.mark.parametrize("cursor", ["", "7", "-1.0", "1.9999999999999999999", "1.1%20"])
def test_a_cursor_that_is_none_is_refused(finished: Client, cursor: str) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/events?cursor={cursor}")
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")


def test_alerts_are_told_with_their_state(watched: Client) -> None:
    page = watched.get("/api/v1/runs/latest/alerts").json
    assert [(one["state"], one["severity"]) for one in page["alerts"]] == [("firing", "critical"), ("resolved", "critical")]


def test_what_fires_is_told_over_all_runs_also_of_one_that_ended(watched: Client) -> None:
    [firing] = watched.get("/api/v1/alerts").json["alerts"]
    assert (firing["run"], firing["fingerprint"]) == (RUN, "ab" * 8)


def test_an_alert_that_somebody_has_taken_over_says_so_until_that_is_over(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory)
    with Observed(tmp_path / RUN, RUN) as observed:
        observed.save([alert(RUN)])
    with serving(tmp_path) as client:
        assert [one["acknowledged"] for one in client.get("/api/v1/alerts").json["alerts"]] == [None]
        append_to_trail(directory, [acknowledged("ab" * 8, "2999-01-01T00:00:00Z")], lambda: datetime.now(UTC))
        taken = {"by": "Ada", "note": "on it", "until": "2999-01-01T00:00:00Z"}
        assert [one["acknowledged"] for one in client.get("/api/v1/alerts").json["alerts"]] == [taken]
        assert b"until 2999-01-01 00:00:00 by Ada: on it" in client.get("/").body
        append_to_trail(directory, [acknowledged("ab" * 8, "2026-01-01T00:00:00Z")], lambda: datetime.now(UTC))
        assert [one["acknowledged"] for one in client.get("/api/v1/alerts").json["alerts"]] == [None]


def test_what_fired_in_a_run_whose_directory_is_gone_fires_no_more(tmp_path: Path) -> None:
    write_run(Directory(tmp_path))
    with Observed(tmp_path / RUN, RUN) as observed:
        observed.save([alert(RUN)])
    with serving(tmp_path) as client:
        assert len(client.get("/api/v1/alerts").json["alerts"]) == 1
        shutil.rmtree(tmp_path / RUN)
        reader = client.service.reader
        reader.stop()
        reader._counted_at = -math.inf  # As after a second.
        with Follower(client.service.directory) as follower:
            reader._take((), follower)
        assert client.get("/api/v1/alerts").json["alerts"] == []


def test_anomalies_and_trends_stand_in_one_list(watched: Client) -> None:
    page = watched.get("/api/v1/runs/latest/anomalies").json
    assert [(one["detector"], one["finding"], one["metric"]) for one in page["anomalies"]] == [
        ("spike", None, "loss"),
        (None, "plateau", "loss"),
    ]


def test_aggregates_page_by_cursor(watched: Client) -> None:
    first = watched.get("/api/v1/runs/latest/aggregates?limit=200").json
    rest = watched.get(f"/api/v1/runs/latest/aggregates?limit=200&cursor={first['cursor']}").json
    assert (first["more"], rest["more"]) == (True, False)
    both = first["aggregates"] + rest["aggregates"]
    assert [one["starts_s"] for one in both if one["metric"] == "loss"] == [15.0 * number for number in range(WINDOWS)]


def test_the_last_hundred_windows_of_every_metric_are_its_history(watched: Client) -> None:
    metrics = watched.get(f"/api/v1/metrics/history?run={RUN}").json["metrics"]
    assert [(one["metric"], len(one["windows"])) for one in metrics] == [
        *((queue, 1) for queue in QUEUES),
        ("gradient_norm", 100),
        ("loss", 100),
    ]
    assert [one["starts_s"] for one in metrics[2]["windows"]] == [15.0 * number for number in range(WINDOWS - 100, WINDOWS)]


@pytest.mark.parametrize(("asked", "found"), [("esper_custom_queue", QUEUES), (QUEUES[1], QUEUES[1:])])
def test_the_series_of_a_custom_metric_are_found_by_its_name_and_each_by_its_own(watched: Client, asked: str, found: list[str]) -> None:
    metrics = watched.get(f"/api/v1/metrics/history?metric={quote(asked)}").json["metrics"]
    assert [one["metric"] for one in metrics] == found


def test_a_window_without_a_number_says_so(watched: Client) -> None:
    [loss] = watched.get("/api/v1/metrics/history?metric=loss").json["metrics"]
    assert [one["mean"] for one in loss["windows"] if one["starts_s"] == 1500.0] == ["NaN"]


def test_own_and_derived_topics_come_in_one_page(watched: Client) -> None:
    topics = "topic=observability.anomalies&topic=system.events.epoch"
    page = watched.get(f"/api/v1/runs/latest/events?limit=1000&{topics}").json
    assert [event["topic"] for event in page["events"]] == ["system.events.epoch"] * 14 + ["observability.anomalies"] * 2
    assert "etag" not in watched.get(f"/api/v1/runs/latest/events?{topics}").headers


def test_pages_of_own_and_derived_topics_go_on_where_they_ended(watched: Client) -> None:
    topics = "topic=observability.anomalies&topic=system.events.epoch"
    found: list[str] = []
    cursor = ""
    while True:
        page = watched.get(f"/api/v1/runs/{RUN}/events?limit=4&{topics}{cursor}").json
        found += [event["id"] for event in page["events"]]
        if not page["more"]:
            break
        cursor = f"&cursor={page['cursor']}"
    whole = watched.get(f"/api/v1/runs/{RUN}/events?limit=1000&{topics}").json
    assert found == [event["id"] for event in whole["events"]]


def test_an_unknown_run_has_no_history(watched: Client) -> None:
    assert watched.get("/api/v1/metrics/history?run=none-of-these").status == 404


def test_the_metrics_show_what_fires(watched: Client) -> None:
    assert b'esper_alerts_firing{severity="critical"} 1.0\n' in watched.get("/metrics").body


def test_a_run_id_of_the_list_is_one_that_can_be_asked_for(watched: Client) -> None:
    assert [RunId(run["run"]) for run in watched.get("/api/v1/runs?limit=1").json["runs"]] == [RUN]
