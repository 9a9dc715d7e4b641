"""The API's answers about a finished run, over HTTP."""

import json
from pathlib import Path

import pytest

from esper.events.codec import encode
from esper.folds.run_state import digest
from esper.history.run_history import open_run
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.beginnings import run_started, training_described
from tests.nissa.server import Client, serving
from tests.synthetic import EPOCHS, RUN, ticking

SHORT = RUN[-6:]


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


def test_decisions_have_their_fates_and_a_number_that_is_none_is_a_word(finished: Client) -> None:
    decisions = finished.get(f"/api/v1/runs/{SHORT}/decisions").json["decisions"]
    assert {decision["fate"] for decision in decisions} >= {"applied", "refused", "failed", "recorded"}
    assert [decision["rule"] for decision in decisions if decision["urgency"] == "NaN"] == ["finite"]


def test_decisions_page_by_moment(finished: Client) -> None:
    whole = finished.get(f"/api/v1/runs/{SHORT}/decisions").json["decisions"]
    first = finished.get(f"/api/v1/runs/{SHORT}/decisions?limit=5").json
    rest = finished.get(f"/api/v1/runs/{SHORT}/decisions?after={first['after']}").json
    assert first["decisions"] + rest["decisions"] == whole


def test_an_answer_about_a_sealed_run_by_its_whole_id_is_good_for_ever(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{RUN}/seeds")
    assert "immutable" in answer.headers["cache-control"]
    again = finished.get(f"/api/v1/runs/{RUN}/seeds", if_none_match=answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")


def test_an_answer_by_a_short_id_is_asked_for_again(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/seeds")
    assert answer.headers["cache-control"] == "private, no-cache"


def test_an_unknown_run_is_not_found_and_not_repeated(finished: Client) -> None:
    answer = finished.get("/api/v1/runs/not-a-run-at-all")
    assert (answer.status, answer.json["type"]) == (404, "urn:esper:problem:unknown-run")
    assert b"not-a-run-at-all" not in answer.body


def test_how_a_run_was_trained_is_not_found_where_its_log_does_not_say(finished: Client) -> None:
    answer = finished.get(f"/api/v1/runs/{SHORT}/how")
    assert (answer.status, answer.json["type"]) == (404, "urn:esper:problem:not-described")


def test_labels_and_how_a_run_was_trained_are_what_its_log_has(tmp_path: Path) -> None:
    labels = {"name": "baseline", "tags": ["good"], "notes": "n", "config": {"lr": 0.01}}
    with Directory(tmp_path).create(RUN) as log, Emitter(log, RUN, clock=ticking()) as emitter:
        emitter.emit(run_started(**labels | {"tags": ("good",)}), epoch=0, step=0)
        emitter.emit(training_described(), epoch=0, step=0)
    with serving(tmp_path) as client:
        assert client.get("/api/v1/runs/baseline").json["labels"] == labels
        assert [one["run"] for one in client.get("/api/v1/runs?tag=good&where=config.lr%3C0.1").json["runs"]] == [RUN]
        assert client.get("/api/v1/runs?where=config.lr%3E0.1").json["runs"] == []
        assert client.get(f"/api/v1/runs/{SHORT}/how").json == {"run": RUN, **json.loads(encode(training_described()))}


def test_condition_that_is_none_is_refused_without_repeating_it(finished: Client) -> None:
    answer = finished.get("/api/v1/runs?where=strange%3E1")
    assert (answer.status, answer.json["type"]) == (409, "urn:esper:problem:not-a-condition")
    assert b"strange" not in answer.body
