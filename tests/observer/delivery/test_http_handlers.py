"""One POST against receivers of every kind: whatever they do, it ends in time, and says what came of it."""

import json
import socket
import ssl
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from esper.observer.delivery.deliverer import run_in_loop
from esper.observer.delivery.delivery_file import AlertmanagerSettings, WebhookSettings
from esper.observer.delivery.http_handlers import AT_ONCE, EXCERPT_BYTES, Endpoint, alertmanager, alerts_body, post, webhook, webhook_body
from esper.observer.delivery.notices import LinkTo, Notice, linker, notice_of
from esper.observer.delivery.outbox import AttemptResult
from esper.observer.delivery.signing import HEADER, verify
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert, now
from tests.observer.delivery.servers import HOST, Inbox, endpoint, http_server, raw_server, silent

SHORT_S = 0.5  # A busy machine may take 20 ms to connect; a deadline within a handshake leaks its socket (see `post`).
TOKEN = "t0ken"  # noqa: S105 - of servers that live for a test.


def posted(to: Endpoint) -> AttemptResult:
    return run_in_loop(post(to, b'{"a": 1}', {"X-More": "yes"}, BEGIN))


def error_of(answer: AttemptResult) -> str:
    assert not answer.delivered
    assert answer.error is not None
    return answer.error


def test_a_success_is_delivered_and_the_request_is_plain() -> None:
    with http_server() as inbox:
        assert posted(endpoint(inbox.port, path="/hook?a=b", token=TOKEN)) == AttemptResult(delivered=True)
    [got] = inbox.got
    assert (got.path, got.body) == ("/hook?a=b", b'{"a": 1}')
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Authorization"] == "Bearer t0ken"
    assert got.headers["X-More"] == "yes"
    assert got.headers["Host"] == f"{HOST}:{inbox.port}"


@pytest.mark.parametrize("status", [500, 502, 503, 408, 429])
def test_a_status_that_may_pass_is_tried_again(status: int) -> None:
    with http_server(inbox=Inbox(status=status, body=b"too\nbusy\x1b[2J")) as inbox:
        answer = posted(endpoint(inbox.port))
    assert error_of(answer) == f"expected status 2xx from {HOST}:{inbox.port}, got {status}: too busy [2J"
    assert not answer.final


@pytest.mark.parametrize("status", [400, 401, 404, 413])
def test_a_status_that_stays_is_final(status: int) -> None:
    with http_server(inbox=Inbox(status=status)) as inbox:
        answer = posted(endpoint(inbox.port))
    assert error_of(answer) == f"expected status 2xx from {HOST}:{inbox.port}, got {status}"
    assert answer.final


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        ("7", 7.0),
        ("999999", 300.0),
        ("Mon, 02 Mar 2026 12:01:00 GMT", 300.0),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 59.99975),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_a_receiver_may_ask_for_a_pause(header: str, pause_s: float | None) -> None:
    with http_server(inbox=Inbox(status=503, headers={"Retry-After": header})) as inbox:
        assert posted(endpoint(inbox.port)).retry_after_s == pause_s


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    with http_server() as elsewhere, http_server() as inbox:
        inbox.status, inbox.headers = status, {"Location": f"http://{HOST}:{elsewhere.port}/"}
        answer = posted(endpoint(inbox.port))
        assert error_of(answer) == f"expected status 2xx from {HOST}:{inbox.port}, got {status}: redirects are not followed"
        assert answer.final
        assert elsewhere.got == []


def test_a_receiver_that_hangs_is_left_in_time() -> None:
    with raw_server(silent) as port:
        answer = posted(endpoint(port, timeout_s=SHORT_S))
    assert error_of(answer) == f"{HOST}:{port}: no complete answer within {SHORT_S:g} s"
    assert not answer.final


def test_a_receiver_that_answers_a_byte_at_a_time_is_left_in_time() -> None:
    def trickle(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.01):
            connection.sendall(b"x")

    with raw_server(trickle) as port:
        answer = posted(endpoint(port, timeout_s=SHORT_S))
    assert error_of(answer) == f"{HOST}:{port}: no complete answer within {SHORT_S:g} s"


def test_an_error_that_trickles_is_left_in_time_too() -> None:
    def trickle(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n")
        while not over.wait(0.01):
            connection.sendall(b"x")

    with raw_server(trickle) as port:
        assert not posted(endpoint(port, timeout_s=SHORT_S)).delivered


def test_no_more_of_an_answer_is_read_than_an_error_needs() -> None:
    def flood(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 500 No\r\n\r\n")
        while not over.is_set():
            connection.sendall(b"y" * 65536)

    with raw_server(flood) as port:
        error = error_of(posted(endpoint(port)))
    assert error.endswith("yyy...")
    assert len(error) < EXCERPT_BYTES


def test_a_success_with_a_body_without_end_is_a_success() -> None:
    def flood(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            connection.sendall(b"y" * 65536)

    with raw_server(flood) as port:
        assert posted(endpoint(port)) == AttemptResult(delivered=True)


def test_headers_without_end_are_refused() -> None:
    def flood(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not over.is_set():
            connection.sendall(b"X-More: y\r\n" * 100)

    with raw_server(flood) as port:
        assert "RemoteProtocolError: Receive buffer too long" in error_of(posted(endpoint(port)))


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1", b"SSH-2.0-server\r\n", b"\x00\xff\xfe\r\n\r\n"])
def test_a_connection_that_is_closed_or_speaks_no_http_is_tried_again(said: bytes) -> None:
    def close(connection: socket.socket, over: threading.Event) -> None:
        assert not over.is_set()
        connection.recv(65536)
        connection.sendall(said)

    with raw_server(close) as port:
        answer = posted(endpoint(port))
    assert error_of(answer).startswith(f"{HOST}:{port}: ")
    assert not answer.final


def test_nobody_there_is_tried_again() -> None:
    with socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
    answer = posted(endpoint(port))
    assert error_of(answer).startswith(f"{HOST}:{port}: ConnectionRefusedError")
    assert not answer.final


def test_a_certificate_of_a_trusted_authority_is_taken(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with http_server(serving) as inbox:
        assert posted(endpoint(inbox.port, tls=trusting)) == AttemptResult(delivered=True)


def test_any_other_certificate_is_refused_for_good(
    serving: ssl.SSLContext, serving_another_name: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with http_server(serving) as inbox:
        answer = posted(endpoint(inbox.port, tls=ssl.create_default_context()))
        assert answer.final
        assert "certificate" in error_of(answer)
    with http_server(serving_another_name) as inbox:
        answer = posted(endpoint(inbox.port, tls=trusting))
        assert answer.final
        assert "IP address mismatch" in error_of(answer)
    assert inbox.got == []


def test_a_handshake_that_hangs_is_left_in_time(trusting: ssl.SSLContext) -> None:
    with raw_server(silent) as port:
        answer = posted(endpoint(port, tls=trusting, timeout_s=SHORT_S))
    assert error_of(answer).startswith(f"{HOST}:{port}: ")


def test_an_error_does_not_repeat_a_secret_that_the_receiver_repeats() -> None:
    with http_server(inbox=Inbox(status=500, body=b"no /services/T00/xyzzy for Bearer t0ken signed by hush-hush")) as inbox:
        error = error_of(posted(endpoint(inbox.port, "hush-hush", path="/services/T00/xyzzy", token=TOKEN)))
    assert error.endswith("got 500: no *** for Bearer *** signed by ***")


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as proxy, http_server() as inbox:
        monkeypatch.setenv("http_proxy", f"http://{HOST}:{proxy.port}")
        assert posted(endpoint(inbox.port)).delivered
        assert proxy.got == []


def test_no_thread_or_connection_is_left_behind() -> None:
    before = set(threading.enumerate())
    with raw_server(silent) as port:
        posted(endpoint(port, timeout_s=SHORT_S))
    assert set(threading.enumerate()) <= before


def test_the_body_is_alertmanagers_of_version_4_with_one_alert() -> None:
    notice = notice_of(alert(7), linker(base_url="https://nissa.example.org"))
    page = f"https://nissa.example.org/api/v1/runs/{RUN}/state?at=1234"
    labels = {
        "alertname": "loss-not-finite",
        "severity": "warning",
        "topic": "telemetry.training.steps",
        "run": RUN,
        "metric": "loss",
    }
    annotations = {"summary": "the loss is not a finite number", "moment": "1234", "command": f"esper show {RUN} --at 1234"}
    assert json.loads(webhook_body(notice, "team")) == {
        "version": "4",
        "groupKey": f"{RUN}/{7:016x}/2026-03-01T12:00:00.000250Z",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "team",
        "groupLabels": {"alertname": "loss-not-finite"},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": page,
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": annotations,
                "startsAt": "2026-03-01T12:00:00.000250Z",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": page,
                "fingerprint": f"{7:016x}",
            }
        ],
    }


def test_a_resolution_has_the_key_of_its_firing_and_an_end() -> None:
    firing = json.loads(webhook_body(notice_of(alert(7), LINK), "team"))
    resolved = json.loads(webhook_body(notice_of(alert(7, firing=False, at_s=90), LINK), "team"))
    assert resolved["groupKey"] == firing["groupKey"]
    assert (resolved["status"], resolved["alerts"][0]["status"]) == ("resolved", "resolved")
    assert resolved["alerts"][0]["endsAt"] == "2026-03-01T12:01:30.000250Z"
    assert resolved["alerts"][0]["startsAt"] == firing["alerts"][0]["startsAt"]


def sent(inbox: Inbox, secret_file: Path | None = None) -> AttemptResult:
    """The answer to one notice that is posted to a webhook."""
    secret = None if secret_file is None else str(secret_file)
    url = SecretStr(f"http://{HOST}:{inbox.port}/")
    settings = WebhookSettings(kind="webhook", name="team", url=url, secret_file=secret)
    return run_in_loop(webhook(settings)([notice_of(alert(7), LINK)], BEGIN))


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("hush-hush")
    return file


def test_a_receiver_can_check_who_sent_it(secret_file: Path) -> None:
    with http_server() as inbox:
        assert sent(inbox, secret_file) == AttemptResult(delivered=True)
    [got] = inbox.got
    assert verify(got.headers[HEADER], got.body, "hush-hush", BEGIN.timestamp())
    assert not verify(got.headers[HEADER], got.body, "another", BEGIN.timestamp())


def test_without_a_secret_nothing_is_signed() -> None:
    with http_server() as inbox:
        sent(inbox)
    assert HEADER not in inbox.got[0].headers


def test_the_secret_is_not_in_an_error_that_repeats_it(secret_file: Path) -> None:
    with http_server(inbox=Inbox(status=500, body=b"bad signature, expected one by hush-hush")) as inbox:
        answer = sent(inbox, secret_file)
    assert answer.error is not None
    assert answer.error.endswith("bad signature, expected one by ***")


def given(*notices: Notice, at: datetime = BEGIN) -> dict[str, object]:
    """The one alert that is posted for a notice."""
    [made] = json.loads(alerts_body(notices, at, 60.0))
    assert isinstance(made, dict)
    return made


@pytest.mark.parametrize(
    ("link_to", "generator"), [(LINK, None), (linker(base_url="http://n"), f"http://n/api/v1/runs/{RUN}/state?at=1234")]
)
def test_what_fires_ends_four_times_ahead(link_to: LinkTo, generator: str | None) -> None:
    made = given(notice_of(alert(7), link_to), at=now(30).time)
    assert made["startsAt"] == "2026-03-01T12:00:00.000250Z"
    assert made["endsAt"] == "2026-03-01T12:04:30.000250Z"
    assert made.get("generatorURL") == generator
    assert made["labels"] == notice_of(alert(7), LINK).labels


@pytest.mark.parametrize(
    ("over_s", "now_s", "ends"),
    [(90, 100, "12:01:30"), (90, 60, "12:01:00"), (90, -60, "12:00:00")],
    ids=["it was over", "the run's clock is ahead", "the run's clock is far ahead"],
)
def test_what_is_over_ends_now_at_the_latest_and_never_before_it_began(over_s: float, now_s: float, ends: str) -> None:
    made = given(notice_of(alert(7, firing=False, at_s=over_s), LINK), at=now(now_s).time)
    assert made["endsAt"] == f"2026-03-01T{ends}.000250Z"


def test_names_are_made_such_that_every_version_takes_them() -> None:
    made = given(notice_of(alert(7, labels={"2nd-place": "a", "größe": "b", "": "c", "empty": ""}), LINK))
    labels = made["labels"]
    assert isinstance(labels, dict)
    assert labels.keys() - notice_of(alert(7, labels={}), LINK).labels.keys() == {"_2nd_place", "gr__e", "_"}


def test_the_key_is_in_the_message() -> None:
    annotations = given(notice_of(alert(7), LINK))["annotations"]
    assert isinstance(annotations, dict)
    assert annotations["key"] == notice_of(alert(7), LINK).key


def sent_again(inbox: Inbox, count: int) -> AttemptResult:
    """The answer to so many notices that are posted to an Alertmanager."""
    settings = AlertmanagerSettings(kind="alertmanager", name="am", url=SecretStr(f"http://{HOST}:{inbox.port}/prefix"))
    notices = [notice_of(alert(number), LINK) for number in range(count)]
    return run_in_loop(alertmanager(settings)(notices, BEGIN + timedelta(seconds=1)))


def test_many_are_posted_in_several_requests() -> None:
    with http_server() as inbox:
        assert sent_again(inbox, 2 * AT_ONCE + 1) == AttemptResult(delivered=True)
    assert [len(json.loads(got.body)) for got in inbox.got] == [AT_ONCE, AT_ONCE, 1]
    assert {got.path for got in inbox.got} == {"/prefix/api/v2/alerts"}


def test_a_request_that_is_refused_keeps_back_no_other() -> None:
    with http_server(inbox=Inbox(status=400)) as inbox:
        answer = sent_again(inbox, 2 * AT_ONCE + 1)
    assert (answer.delivered, answer.final) == (False, True)
    assert [len(json.loads(got.body)) for got in inbox.got] == [AT_ONCE, AT_ONCE, 1]


def test_where_nobody_can_take_them_the_first_failure_is_the_answer() -> None:
    with http_server(inbox=Inbox(status=500)) as inbox:
        assert not sent_again(inbox, 2 * AT_ONCE).delivered
    assert len(inbox.got) == 1
