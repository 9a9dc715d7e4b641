"""What stands before every route, over HTTP: hosts, token, other sites, sizes, bodies that are none, and the headers of answers."""

import base64
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.nissa.service_settings import NissaSettings
from esper.oona.directory import Directory
from tests.nissa.server import Client, serving

TOKEN = "a-token-of-some-length"  # noqa: S105
CUSTOM = "/api/v1/metrics/custom"
SAMPLE = {"samples": [{"name": "length", "type": "gauge", "value": 1.0}]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server over an empty log that asks for a token and reads small bodies."""
    path = tmp_path_factory.mktemp("guarded")
    with serving(path, NissaSettings(names=("esper.example",), body_limit_bytes=2000), TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server over an empty log without a token."""
    path = tmp_path_factory.mktemp("open")
    Directory(path, create=True)
    with serving(path) as client:
        yield client


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9090", "127.0.0.1:1", "[::1]:9090", "10.1.2.3", "esper.example", "esper.example."]
)
def test_a_plain_address_and_a_known_name_are_answered(guarded: Client, host: str) -> None:
    assert guarded.get("/healthz", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "esper.example.evil.example", "localhost.evil.example", "a b", "127.0.0.1.evil.example:80", ""]
)
def test_a_name_that_is_not_known_is_refused_and_not_repeated(guarded: Client, host: str) -> None:
    answer = guarded.get("/healthz", host=host)
    assert (answer.status, answer.json["type"]) == (400, "urn:esper:problem:unknown-host")
    assert b"evil" not in answer.body


@pytest.mark.parametrize("host", ["a b", ".", ""])
def test_a_server_on_all_addresses_knows_no_empty_name(tmp_path: Path, host: str) -> None:
    with serving(tmp_path, NissaSettings(host=""), TOKEN) as client:
        assert client.get("/healthz", host=host).status == 400


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/runs", "/api/v1/openapi.json", "/api/v1/nothing", "/healthz/"])
@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer wrong-token-of-length", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN])
def test_without_the_token_nothing_is_told(guarded: Client, path: str, authorization: str) -> None:
    answer = guarded.get(path, authorization=authorization)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="esper"')


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}"])
def test_with_the_token_everything_is(guarded: Client, authorization: str) -> None:
    assert guarded.get("/api/v1/runs", authorization=authorization).status == 200


def test_a_browser_asks_its_user_for_the_token_as_a_password(guarded: Client) -> None:
    refused = guarded.get("/", accept="text/html,*/*")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="esper"')
    given = base64.b64encode(f"anybody:{TOKEN}".encode()).decode()
    assert guarded.get("/", authorization=f"Basic {given}").status == 200


@pytest.mark.parametrize("credentials", ["anybody:wrong", TOKEN, f"{TOKEN}:", ":"])
def test_another_password_is_refused(guarded: Client, credentials: str) -> None:
    given = base64.b64encode(credentials.encode()).decode()
    assert guarded.get("/api/v1/runs", authorization=f"Basic {given}").status == 401


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/-/healthy", "/-/ready"])
def test_health_asks_for_no_token(guarded: Client, path: str) -> None:
    assert guarded.get(path).status == 200


def test_the_description_says_that_a_token_is_needed(guarded: Client) -> None:
    described = guarded.get("/api/v1/openapi.json", authorization=f"Bearer {TOKEN}").json
    assert described["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}


def test_a_body_that_says_it_is_too_large_is_not_read(guarded: Client) -> None:
    answer = guarded.post(CUSTOM, {"samples": ["x" * 3000]}, authorization=f"Bearer {TOKEN}")
    assert (answer.status, answer.headers["content-type"]) == (413, "application/problem+json")


def test_a_body_that_does_not_say_its_size_is_read_up_to_the_limit(guarded: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=20)
    chunks: Iterator[bytes] = iter([b" " * 900] * 3)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    connection.request("POST", CUSTOM, chunks, headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:1"])
def test_a_page_of_another_site_may_not_post(open_one: Client, origin: str) -> None:
    assert open_one.post(CUSTOM, SAMPLE, origin=origin).status == 403


def test_a_page_of_its_own_may(open_one: Client) -> None:
    assert open_one.post(CUSTOM, SAMPLE, origin=f"http://127.0.0.1:{open_one.port}").status == 200


def test_no_answer_allows_another_origin(open_one: Client) -> None:
    answer = open_one.get("/api/v1/runs", origin="http://evil.example")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert open_one.ask("OPTIONS", "/api/v1/runs", origin="http://evil.example", access_control_request_method="GET").status == 405


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/api/v1/runs", "/nothing"])
def test_every_answer_keeps_a_browser_from_anything_else(open_one: Client, path: str) -> None:
    headers = open_one.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self';")
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[" * 1000,
        b"[" * 100_000,
        b"1" * 5000,
        b'{"samples": [{"name": "length", "type": "gauge", "value": NaN}]}',
        b'{"samples": [{"name": "length", "type": "gauge", "value": -Infinity}]}',
        b'{"samples": [{"name": "length", "type": "gauge", "value": 1e999}]}',
        b'{"samples": [{"name": "length", "type": "gauge", "value": 1, "labels": {"a": "\\ud800"}}]}',
        b'{"samples": [{"name": "length", "type": "gauge", "value": 1, "secret-looking": "secret-value"}]}',
        b'{"samples": [{"name": "secret-value", "type": "secret-value", "value": "secret-value"}]}',
        b'{"samples": [{"name": "length", "type": "gauge", "value": 1, "labels": {"secret-value": ["secret-value"]}}]}',
        b'{"samples": []}',
        b"null",
    ],
)
def test_a_body_that_is_none_is_a_clear_refusal_that_repeats_nothing(open_one: Client, body: bytes) -> None:
    answer = open_one.ask("POST", CUSTOM, body, content_type="application/json")
    assert answer.status in {400, 422}
    problem = answer.json
    assert (answer.headers["content-type"], problem["status"]) == ("application/problem+json", answer.status)
    assert b"secret" not in answer.body


def test_a_form_is_no_json(open_one: Client) -> None:
    assert open_one.ask("POST", CUSTOM, json.dumps(SAMPLE), content_type="text/plain").status == 422


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_method_that_a_path_does_not_have_is_refused_with_those_it_has(open_one: Client, method: str) -> None:
    answer = open_one.ask(method, "/api/v1/runs")
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_redefining_a_metric_is_a_conflict(open_one: Client) -> None:
    other = {"samples": [{"name": "length", "type": "gauge", "value": 1.0, "labels": {"queue": "a"}}]}
    open_one.post(CUSTOM, SAMPLE)
    answer = open_one.post(CUSTOM, other)
    assert (answer.status, answer.json["type"]) == (409, "urn:esper:problem:metric-redefined")
    assert answer.json["errors"][0]["pointer"] == "/samples/0"


def test_an_empty_log_is_served_without_an_invented_value(guarded: Client) -> None:
    authorization = f"Bearer {TOKEN}"
    assert guarded.get("/api/v1/runs", authorization=authorization).json == {"runs": [], "cursor": None, "total": 0}
    assert guarded.get("/api/v1/runs/latest", authorization=authorization).status == 404
    absent = guarded.get("/api/v1/status", authorization=authorization).json["absent"]
    assert {"esper_loss", "esper_cpu_utilization_ratio", "esper_gpu_utilization_ratio", "esper_seeds"} <= set(absent)
    metrics = guarded.get("/metrics", authorization=authorization).body.decode()
    assert not [line for line in metrics.splitlines() if line.startswith(("esper_loss", "esper_gpu", "esper_cpu", "esper_seeds{"))]
