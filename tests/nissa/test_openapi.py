"""What is answered is what the description says, for every route and a run that holds every oddity of the synthetic one."""

import math
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # it brings no types; used for its verdict alone

from esper.events.kinds.control import DecisionMade
from esper.history.run_history import open_run
from tests.nissa.server import Client
from tests.synthetic import RUN


@pytest.fixture(scope="module")
def described(finished: Client) -> Any:  # Any: JSON.
    """The description."""
    return finished.get("/api/v1/openapi.json").json


def moment_of_nan(finished: Client) -> int:
    """The moment of a decision whose urgency is no number."""
    with open_run(RUN, finished.service.directory.path) as history:
        [moment] = [record.moment for record, event in history.events(DecisionMade.TOPIC) if math.isnan(getattr(event, "urgency", 0.0))]
    return moment


def check(described: Any, path: str, status: int, answer: object) -> None:
    """Fails where `answer` is not what `path` is described to give with `status`."""
    operations = described["paths"][path]
    content = operations["get"]["responses"][str(status)]["content"]
    [schema] = [one["schema"] for name, one in content.items() if "json" in name]
    Draft202012Validator({**schema, "components": described["components"]}).validate(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/readyz",
        "/api/v1/status",
        "/api/v1/runs",
        "/api/v1/alerts",
        "/api/v1/metrics/history",
        *(
            f"/api/v1/runs/{{run}}{part}"
            for part in ("", "/state", "/seeds", "/transitions", "/decisions", "/events", "/alerts", "/aggregates")
        ),
    ],
)
def test_an_answer_is_as_described(finished: Client, described: Any, path: str) -> None:
    answer = finished.get(path.format(run=RUN))
    check(described, path, answer.status, answer.json)


def test_measurements_of_health_are_as_described(finished: Client, described: Any) -> None:
    answer = finished.get(f"/api/v1/runs/{RUN}/health?limit=200")
    assert len(answer.json["measurements"]) > 10
    check(described, "/api/v1/runs/{run}/health", 200, answer.json)


def test_a_state_with_a_number_that_is_none_is_as_described(finished: Client, described: Any) -> None:
    answer = finished.get(f"/api/v1/runs/{RUN}/state?at={moment_of_nan(finished)}")
    assert "NaN" in [decision["urgency"] for decision in answer.json["decisions"]]
    check(described, "/api/v1/runs/{run}/state", 200, answer.json)


@pytest.mark.parametrize("path", ["/api/v1/runs/none-of-these", "/api/v1/runs/none-of-these/state?at=x"])
def test_a_problem_is_as_described(finished: Client, described: Any, path: str) -> None:
    answer = finished.get(path)
    check(described, "/api/v1/runs/{run}", answer.status, answer.json)


def test_every_operation_has_a_name_of_its_own_and_says_what_may_go_wrong(described: Any) -> None:
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    assert all({"400", "403", "422", "500"} <= operation["responses"].keys() for operation in operations)


def test_where_no_token_is_needed_none_is_asked_for(described: Any) -> None:
    assert "security" not in described
    assert "securitySchemes" not in described["components"]


def test_every_schema_that_is_named_is_there(described: Any) -> None:
    text = str(described)
    named = {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= described["components"]["schemas"].keys()
