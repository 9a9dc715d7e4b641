"""One POST against receivers of every kind: whatever they do, it ends in time, and says what came of it."""

import socket
import ssl
import threading

import pytest

from esper.observer.delivery.exchange import Answer
from esper.observer.delivery.handlers.http import EXCERPT_BYTES, Endpoint, post
from esper.observer.delivery.handlers.secret import Secret
from tests.observer.delivery.handlers.servers import HOST, Inbox, endpoint, http_server, raw_server, silent
from tests.observer.delivery.made import BEGIN

SHORT_S = 0.05
TOKEN = "t0ken"  # noqa: S105 - of servers that live for a test.


def posted(to: Endpoint, *hidden: str) -> Answer:
    return post(to, b'{"a": 1}', {"X-More": "yes"}, BEGIN, hidden=[Secret(text) for text in hidden])


def error_of(answer: Answer) -> str:
    assert not answer.delivered
    assert answer.error is not None
    return answer.error


def test_a_success_is_delivered_and_the_request_is_plain() -> None:
    with http_server() as inbox:
        assert posted(endpoint(inbox.port, path="/hook?a=b", token=TOKEN)) == Answer(delivered=True)
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
    ("header", "asked_s"),
    [("7", 7.0), ("Sun, 01 Mar 2026 12:01:00 GMT", 59.99975), ("Sun, 01 Mar 2026 11:00:00 GMT", 0.0), ("soon", None), ("-5", None)],
)
def test_a_receiver_may_ask_for_a_pause(header: str, asked_s: float | None) -> None:
    with http_server(inbox=Inbox(status=503, headers={"Retry-After": header})) as inbox:
        assert posted(endpoint(inbox.port)).asked_s == asked_s


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
    assert error_of(answer) == f"{HOST}:{port}: no complete answer within 0.05 s"
    assert not answer.final


def test_a_receiver_that_answers_a_byte_at_a_time_is_left_in_time() -> None:
    def trickle(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not over.wait(0.01):
            connection.sendall(b"x")

    with raw_server(trickle) as port:
        answer = posted(endpoint(port, timeout_s=SHORT_S))
    assert error_of(answer) == f"{HOST}:{port}: no complete answer within 0.05 s"


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
        assert posted(endpoint(port)) == Answer(delivered=True)


def test_headers_without_end_are_refused() -> None:
    def flood(connection: socket.socket, over: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not over.is_set():
            connection.sendall(b"X-More: y\r\n" * 100)

    with raw_server(flood) as port:
        assert "more than 100 headers" in error_of(posted(endpoint(port)))


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
        assert posted(endpoint(inbox.port, tls=trusting)) == Answer(delivered=True)


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
        error = error_of(posted(endpoint(inbox.port, path="/services/T00/xyzzy", token=TOKEN), "hush-hush"))
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
