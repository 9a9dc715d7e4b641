"""The routes about the service itself, over HTTP."""

from tests.nissa.server import Client


def test_samples_that_are_not_said_to_be_json_are_refused_with_what_is_missing(finished: Client) -> None:
    answer = finished.ask("POST", "/api/v1/metrics/custom", b'{"samples": []}', content_type="application/x-www-form-urlencoded")
    assert answer.status == 422
    assert "the header content-type: application/json" in answer.json["errors"][0]["detail"]


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
