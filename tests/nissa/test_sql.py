"""POST /api/v1/sql: rows behind a token, refusals as problem documents, and nothing of the service's own machine."""

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it brings no types; used for its verdict alone

from esper.oona.directory import Directory
from tests.nissa.server import Answer, Client, serving
from tests.synthetic import RUN, write_run

pytestmark = pytest.mark.whole

TOKEN = "a-token-of-some-length"  # noqa: S105
PATH = "/api/v1/sql"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server over a log with one finished run, that asks for a token."""
    path = tmp_path_factory.mktemp("asked")
    write_run(Directory(path))
    with serving(path, token=TOKEN) as client:
        yield client


def asked(client: Client, sql: str, **more: object) -> Answer:
    """The answer to a question, with the token."""
    return client.post(PATH, {"sql": sql, **more}, authorization=f"Bearer {TOKEN}")


def kind(answer: Answer) -> tuple[int, Any]:  # Any: JSON.
    return answer.status, answer.json["type"].removeprefix("urn:esper:problem:")


def test_the_rows_of_a_statement_come_with_their_columns(guarded: Client) -> None:
    answer = asked(guarded, "SELECT adaptation, count(*) AS n FROM decisions WHERE adaptation = 'graft' GROUP BY ALL")
    assert answer.status == 200
    assert answer.json["columns"] == [{"name": "adaptation", "type": "string"}, {"name": "n", "type": "int64"}]
    assert answer.json["rows"] == [["graft", 2]]


def test_a_number_that_is_not_finite_is_a_word(guarded: Client) -> None:
    assert asked(guarded, "SELECT loss FROM steps WHERE isnan(loss)").json["rows"] == [["NaN"]]


def test_a_question_may_be_about_a_run_as_it_stood(guarded: Client) -> None:
    assert asked(guarded, "SELECT max(epoch) FROM epochs", run="latest", epoch=4).json["rows"] == [[4]]
    assert asked(guarded, "SELECT max(moment) FROM events", run=RUN, moment=50).json["rows"] == [[50]]


def test_parameters_are_values_and_no_text_of_the_statement(guarded: Client) -> None:
    answer = asked(guarded, "SELECT count(*) FROM decisions WHERE reason = $reason", parameters={"reason": "' OR true --"})
    assert answer.json["rows"] == [[0]]


def test_without_a_token_nothing_is_answered(guarded: Client, finished: Client) -> None:
    assert kind(guarded.post(PATH, {"sql": "SELECT 1"})) == (401, "unauthorized")
    assert kind(finished.post(PATH, {"sql": "SELECT 1"})) == (403, "no-token")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DELETE FROM events", "only reads"),
        ("SELECT * FROM '/etc/passwd'", "/etc/passwd"),
        ("SELECT confidenze FROM decisions", "perhaps confidence"),
        ("SELEC 1", "SELEC"),
    ],
)
def test_a_statement_that_is_refused_is_told_why(guarded: Client, sql: str, words: str) -> None:
    answer = asked(guarded, sql)
    assert kind(answer) == (409, "sql-refused")
    assert words in answer.json["detail"]


def test_a_moment_that_the_run_has_not_reached_is_refused(guarded: Client) -> None:
    assert kind(asked(guarded, "SELECT 1", run="latest", moment=10**6)) == (409, "sql-refused")
    assert kind(asked(guarded, "SELECT 1", epoch=3)) == (409, "sql-refused")


def test_more_questions_than_the_service_allows_at_one_time_are_refused(guarded: Client) -> None:
    queries = guarded.service.app.state.backend.queries
    taken = [queries.acquire(blocking=False) for _ in range(2)]
    try:
        assert taken == [True, True]
        assert kind(asked(guarded, "SELECT 1")) == (429, "busy")
    finally:
        queries.release(2)
    assert asked(guarded, "SELECT 1").status == 200


def test_an_answer_is_as_described(guarded: Client) -> None:
    described = guarded.get("/api/v1/openapi.json", authorization=f"Bearer {TOKEN}").json
    schema = described["paths"][PATH]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    answer = asked(guarded, "SELECT * FROM runs")
    Draft202012Validator({**schema, "components": described["components"]}).validate(answer.json)
