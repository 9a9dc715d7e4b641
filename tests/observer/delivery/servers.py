"""Receivers on loopback, well-behaved and not: HTTP servers that keep what they got, sockets that do as they are told, mail servers."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import anyio._backends._asyncio  # noqa: F401 - httpx imports it within its first request, and some requests here have 50 ms.
from aiosmtpd.handlers import Message as MessageHandler
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from pydantic import SecretStr

from esper.observer.delivery.delivery_file import WebhookSettings
from esper.observer.delivery.http_handlers import Endpoint, endpoint_of

HOST = "127.0.0.1"
LONG_S = 60.0


class Got(NamedTuple):
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Inbox:
    """What an HTTP server got, and how it answers."""

    port: int = 0
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    got: list[Got] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, got: Got) -> None:
        """Keeps a request."""
        with self.changed:
            self.got.append(got)
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Returns once there are so many requests."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= count, LONG_S)


def _handler(inbox: Inbox) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.take(Got(self.path, dict(self.headers), body))
            self.send_response(inbox.status)
            for name, value in inbox.headers.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # Nobody has to read it to the end.
                self.wfile.write(inbox.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server calls it so.
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: a client that refuses a certificate is what some tests want."""


@contextmanager
def http_server(tls: ssl.SSLContext | None = None, inbox: Inbox | None = None) -> Iterator[Inbox]:
    """An HTTP server, with TLS where there is a context; on the inbox's port, where it names one."""
    inbox = inbox or Inbox()
    with _Server((HOST, inbox.port), _handler(inbox)) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        inbox.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield inbox
        finally:
            server.shutdown()
            thread.join()


def silent(connection: socket.socket, over: threading.Event) -> None:
    """Accepts a connection and never says a word."""
    assert connection.fileno() >= 0
    over.wait()


@contextmanager
def raw_server(behave: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """The port of a server that does with its one connection as `behave` says; the event is set when the test is over."""
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                behave(connection, over)

    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def endpoint(
    port: int,
    *hidden: str,
    path: str = "/hook",
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = LONG_S,
) -> Endpoint:
    """Where to post to a server of this module."""
    url = SecretStr(f"{'http' if tls is None else 'https'}://{HOST}:{port}{path}")
    settings = WebhookSettings(kind="webhook", name="team", url=url, connect_timeout_s=timeout_s, timeout_s=timeout_s)
    secrets = [SecretStr(text) for text in (*hidden, token) if text is not None]
    made = endpoint_of(settings, hidden=secrets)
    return made._replace(token=None if token is None else SecretStr(token), tls=tls or made.tls)


@dataclass
class MailServer:
    """What a mail server got, and how it behaves."""

    port: int = 0
    password: str = "correct horse"  # noqa: S105 - of a server that lives for a test.
    refusals: dict[str, str] = field(default_factory=dict)
    """Answers to RCPT TO by address."""
    data_answer: str | None = None
    drops_after_data: bool = False
    got: list[Message] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)


class _Mailroom(MessageHandler):
    def __init__(self, server: MailServer) -> None:
        super().__init__()
        self._server = server

    async def handle_RCPT(  # noqa: N802 - aiosmtpd looks for this name.
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        assert (server, session, options) is not None
        if address in self._server.refusals:
            return self._server.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above.
        if self._server.data_answer is not None:
            return self._server.data_answer
        answer: str = await super().handle_DATA(server, session, envelope)
        self._server.recipients.append(list(envelope.rcpt_tos))
        if self._server.drops_after_data:
            assert server.transport is not None
            server.transport.close()
        return answer

    def handle_message(self, message: Message) -> None:
        self._server.got.append(message)


@contextmanager
def mail_server(tls: ssl.SSLContext | None, mailroom: MailServer, *, at_once: bool = False) -> Iterator[MailServer]:
    """A mail server that wants STARTTLS, or TLS at once, before a login; without a context it offers neither."""

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        assert (server, session, envelope, mechanism) is not None
        mailroom.users.append(data.login.decode())
        return AuthResult(success=data.password.decode() == mailroom.password, handled=False)

    def protocol() -> SMTP:
        return SMTP(
            _Mailroom(mailroom),
            hostname="mail.test",
            tls_context=None if at_once else tls,
            require_starttls=tls is not None and not at_once,
            authenticator=authenticate,
            auth_require_tls=tls is not None and not at_once,
            loop=loop,
        )

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(protocol, HOST, 0, ssl=tls if at_once else None))
    mailroom.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield mailroom
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(server.wait_closed())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
