"""What the API answers about a finished run, over HTTP."""

import json

import pytest

from esper.events.envelope import Record
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.folds.run_state import digest
from esper.history.run import open_run
from tests.nissa.server import Client
from tests.synthetic import EPOCHS, RUN

SHORT = RUN[-6:]


@pytest.fixture(scope="module")
def records(finished: Client) -> list[Record]:
    with open_run(RUN, finished.service.directory.path) as history:
        return list(history.records())


def test_runs_are_listed_with_what_their_seal_says(finished: Client) -> None:
    [run] = finished.get("/api/v1/runs").json["runs"]
    assert (run["run"], run["standing"], run["task"], run["epoch"], run["sealed"]) == (RUN, "finished", "digits", EPOCHS, True)


@pytest.mark.parametrize("ref", [RUN, SHORT, RUN[:30], "latest"])
def test_a_run_is_found_by_what_people_type(finished: Client, ref: str) -> None:
    assert finished.get(f"/api/v1/runs/{ref}").json["summary"]["run"] == RUN


@pytest.mark.parametrize("moment", [0, 1, 57, 120])
def test_the_state_at_a_moment_is_the_folds(finished: Client, moment: int) -> None:
    with open_run(RUN, finished.service.directory.path) as history:
        expected = history.at(moment=moment)
    answer = finished.get(f"/api/v1/runs/{SHORT}/state?at={moment}").json
    assert answer["digest"] == digest(expected)
    assert [slot["row"]["stage"] for slot in answer["seeds"]] == [row.stage for row in expected.seeds]


def test_a_moment_that_was_not_reached_is_not_found(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/state?at=9999999")
    assert (answer.status, answer.json["type"]) == (404, "urn:esper:problem:moment-not-reached")


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


def test_samples_that_are_not_said_to_be_json_are_refused_with_what_is_missing(finished: Client) -> None:
    answer = finished.ask("POST", "/api/v1/metrics/custom", b'{"samples": []}', content_type="application/x-www-form-urlencoded")
    assert answer.status == 422
    assert "the header content-type: application/json" in answer.json["errors"][0]["detail"]


def test_transitions_are_those_of_the_log(finished: Client, records: list[Record]) -> None:
    page = finished.get(f"/api/v1/runs/{SHORT}/transitions").json
    logged = [json.loads(record.data) for record in records if record.type == SeedTransitioned.KIND]
    assert [(one["site"], one["seed"], one["to_stage"]) for one in page["transitions"]] == [
        (one["site"], one["seed"], one["to_stage"]) for one in logged
    ]


def test_decisions_have_their_fates_and_a_number_that_is_none_is_a_word(finished: Client) -> None:
    decisions = finished.get(f"/api/v1/runs/{SHORT}/decisions").json["decisions"]
    assert {decision["fate"] for decision in decisions} >= {"applied", "refused", "failed", "recorded"}
    assert [decision["rule"] for decision in decisions if decision["urgency"] == "NaN"] == ["finite"]


def test_decisions_page_by_moment(finished: Client) -> None:
    whole = finished.get(f"/api/v1/runs/{SHORT}/decisions").json["decisions"]
    first = finished.get(f"/api/v1/runs/{SHORT}/decisions?limit=5").json
    rest = finished.get(f"/api/v1/runs/{SHORT}/decisions?after={first['after']}").json
    assert first["decisions"] + rest["decisions"] == whole


def test_health_is_the_last_that_was_measured(finished: Client, records: list[Record]) -> None:
    measured = [record for record in records if record.type == "esper.seed.health-measured.v1"]
    page = finished.get(f"/api/v1/runs/{SHORT}/health?limit=3").json
    assert [one["moment"] for one in page["measurements"]] == [record.moment for record in measured[-3:]]
    assert page["measurements"][-1]["health"] == json.loads(measured[-1].data)["health"]


def test_an_answer_about_a_sealed_run_by_its_whole_id_is_good_for_ever(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{RUN}/seeds")
    assert "immutable" in answer.headers["cache-control"]
    again = finished.get(f"/api/v1/runs/{RUN}/seeds", if_none_match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_an_answer_by_a_short_id_is_asked_for_again(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/seeds")
    assert answer.headers["cache-control"] == "private, no-cache"


def test_what_is_derived_is_empty_and_not_kept_where_nobody_observed(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/alerts")
    assert (answer.json["alerts"], answer.headers["cache-control"]) == ([], "no-store")


@pytest.mark.parametrize("cursor", ["", "7", "-1.0", "1.9999999999999999999", "1.1%20"])
def test_a_cursor_that_is_none_is_refused(finished: Client, cursor: str) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/events?cursor={cursor}")
    assert (answer.status, answer.headers["content-type"]) == (422, "application/problem+json")


def test_an_unknown_run_is_not_found_and_not_repeated(finished: Client) -> None:
    answer = finished.get("/api/v1/runs/not-a-run-at-all")
    assert (answer.status, answer.json["type"]) == (404, "urn:esper:problem:unknown-run")
    assert b"not-a-run-at-all" not in answer.body


def test_a_scraper_that_asks_for_nothing_gets_text(finished: Client) -> None:
    answer = finished.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE esper_follow_runs gauge\nesper_follow_runs " in answer.body
    assert b"# TYPE esper_epochs_total counter\nesper_epochs_total " in answer.body


def test_a_scraper_that_prefers_openmetrics_gets_that(finished: Client) -> None:
    answer = finished.get("/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert b"# TYPE esper_epochs counter\nesper_epochs_total " in answer.body
    assert answer.body.endswith(b"# EOF\n")
