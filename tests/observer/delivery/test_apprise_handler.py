"""apprise against receivers on loopback: mail servers with and without TLS, an HTTP server, and some that hang or refuse."""

import email
import email.policy
import json
import logging
import socket
import ssl
import threading
from email.message import Message
from pathlib import Path

import pytest
from pydantic import SecretStr

from esper.errors import SettingsError
from esper.observer.delivery.apprise_handler import text_of, through_apprise
from esper.observer.delivery.deliverer import Deliverer, run_in_loop
from esper.observer.delivery.delivery_file import AppriseSettings, parse_delivery
from esper.observer.delivery.handlers import build_handlers, run_handler_tests
from esper.observer.delivery.notices import Notice, linker, notice_of
from esper.observer.delivery.outbox import AttemptResult
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert
from tests.observer.delivery.servers import HOST, Inbox, MailServer, http_server, mail_server, raw_server, silent
from tests.observer.delivery.test_deliverer import Ledger

PASSWORD = "correct horse"  # noqa: S105 - of servers that live for a test.


@pytest.fixture
def trusted(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process trust the authority of the tests."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))


def mail_url(port: int, *recipients: str, mode: str = "starttls", password: str | None = PASSWORD) -> str:
    login = "" if password is None else f"esper:{password.replace(' ', '%20')}@"
    to = ",".join(recipients or ("one@example.org",))
    return f"mailtos://{login}{HOST}:{port}?from=esper@example.org&to={to}&mode={mode}"


def sent(url: str, notice: Notice | None = None, *, timeout_s: float = 60.0) -> AttemptResult:
    settings = AppriseSettings(kind="apprise", name="team", url=SecretStr(url), timeout_s=timeout_s)
    return run_in_loop(through_apprise(settings)([notice or notice_of(alert(7), LINK)], BEGIN))


def error_of(answer: AttemptResult) -> str:
    assert not answer.delivered
    assert answer.error is not None
    return answer.error


def content(mail: Message) -> tuple[str, str]:
    """Subject and text of a mail that arrived."""
    parsed = email.message_from_bytes(mail.as_bytes(), policy=email.policy.default)
    return str(parsed["Subject"]).strip(), parsed.get_content()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("mode", ["starttls", "ssl"])
def test_a_mail_is_handed_over_after_tls_and_login(serving: ssl.SSLContext, mode: str) -> None:
    with mail_server(serving, MailServer(), at_once=mode == "ssl") as server:
        assert sent(mail_url(server.port, "one@example.org", "two@example.org", mode=mode)) == AttemptResult(delivered=True)
    assert server.users == ["esper"]
    assert server.recipients == [["one@example.org"], ["two@example.org"]]
    subject, text = content(server.got[0])
    assert subject == "[warning firing] loss-not-finite: the loss is not a finite number"
    assert f"esper show {RUN} --at 1234" in text
    assert f"{RUN}/{7:016x}/2026-03-01T12:00:00.000250Z" in text


@pytest.mark.usefixtures("trusted")
def test_without_a_user_nobody_logs_in(serving: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer()) as server:
        assert sent(mail_url(server.port, password=None)).delivered
    assert server.users == []


def test_a_mail_server_on_this_machine_needs_no_tls() -> None:
    with mail_server(None, MailServer()) as server:
        assert sent(f"mailto://{HOST}:{server.port}?from=esper@example.org&to=one@example.org") == AttemptResult(delivered=True)
    assert server.recipients == [["one@example.org"]]


@pytest.mark.usefixtures("trusted")
def test_nothing_is_sent_to_a_server_that_offers_no_tls() -> None:
    with mail_server(None, MailServer()) as server:
        assert "STARTTLS extension not supported by server" in error_of(sent(mail_url(server.port)))
    assert (server.users, server.got) == ([], [])


@pytest.mark.parametrize("mode", ["starttls", "ssl"])
def test_nothing_is_sent_to_a_server_that_cannot_be_trusted(serving: ssl.SSLContext, mode: str) -> None:
    with mail_server(serving, MailServer(), at_once=mode == "ssl") as server:
        assert "certificate" in error_of(sent(mail_url(server.port, mode=mode)))
    assert (server.users, server.got) == ([], [])


@pytest.mark.usefixtures("trusted")
def test_a_wrong_password_is_not_shown(serving: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer(password=PASSWORD[1:])) as server:
        error = error_of(sent(mail_url(server.port)))
    assert "(535, " in error
    assert PASSWORD not in error


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("said", ["451 later", "554 never"])
def test_a_refusal_is_tried_again_and_says_why(serving: ssl.SSLContext, said: str) -> None:
    with mail_server(serving, MailServer(data_answer=said)) as server:
        answer = sent(mail_url(server.port))
    assert said[:3] in error_of(answer)
    assert not answer.final


@pytest.mark.usefixtures("trusted")
def test_when_some_recipients_are_taken_it_is_delivered_and_says_so(serving: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer(refusals={"two@example.org": "550 no such user"})) as server:
        answer = sent(mail_url(server.port, "one@example.org", "two@example.org"))
    assert (answer.delivered, server.recipients) == (True, [["one@example.org"]])
    assert answer.error is not None
    assert "550" in answer.error


@pytest.mark.usefixtures("trusted")
def test_a_server_that_hangs_up_is_tried_again(serving: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer(drops_after_data=True)) as server:
        answer = sent(mail_url(server.port))
    assert (answer.delivered, answer.final) == (False, False)


def test_a_mail_server_that_hangs_is_left_in_time() -> None:
    with raw_server(silent) as port:
        assert not sent(mail_url(port), timeout_s=0.05).delivered


def test_foreign_text_makes_no_header_and_keeps_its_letters() -> None:
    annotations = {"summary": "größer\r\nBcc: everybody@example.org\r\n\r\nbody", "runbook": "see ∞\n.\nQUIT"}
    notice = notice_of(alert(7, annotations=annotations), linker(base_url="http://n"))
    with mail_server(None, MailServer()) as server:
        assert sent(f"mailto://{HOST}:{server.port}?from=esper@example.org&to=one@example.org", notice).delivered
    [got] = server.got
    subject, text = content(got)
    assert (got["Bcc"], server.recipients) == (None, [["one@example.org"]])
    assert subject == "[warning firing] loss-not-finite: größer Bcc: everybody@example.org body"
    assert "  runbook: see ∞ . QUIT\n" in text
    assert f"http://n/api/v1/runs/{RUN}/state?at=1234" in text


def test_the_text_of_a_resolution_says_so() -> None:
    assert text_of(notice_of(alert(7, firing=False), LINK)).startswith("loss-not-finite is resolved (warning)\n")


def test_a_service_takes_a_notice_by_its_url() -> None:
    with http_server() as inbox:
        assert sent(f"json://{HOST}:{inbox.port}/hook") == AttemptResult(delivered=True)
    [got] = inbox.got
    body = json.loads(got.body)
    assert got.path == "/hook"
    assert (body["title"], body["type"]) == ("[warning firing] loss-not-finite: the loss is not a finite number", "warning")
    assert body["message"] == text_of(notice_of(alert(7), LINK)).strip()


@pytest.mark.parametrize(
    ("firing", "severity", "kind"), [(True, "critical", "failure"), (True, "info", "info"), (False, "critical", "success")]
)
def test_severity_and_status_are_apprises_type(firing: bool, severity: str, kind: str) -> None:
    made = notice_of(alert(7, firing=firing), LINK)
    with http_server() as inbox:
        sent(f"json://{HOST}:{inbox.port}/", made._replace(labels=made.labels | {"severity": severity}))
    assert json.loads(inbox.got[0].body)["type"] == kind


def test_no_redirect_is_followed() -> None:
    with http_server() as elsewhere, http_server() as inbox:
        inbox.status, inbox.headers = 307, {"Location": f"http://{HOST}:{elsewhere.port}/"}
        assert "error=307" in error_of(sent(f"json://{HOST}:{inbox.port}/"))
    assert elsewhere.got == []


def trickle(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n")
    while not over.wait(0.01):
        connection.sendall(b"x")


def test_a_receiver_that_trickles_is_left_in_time_and_holds_one_thread_at_most() -> None:
    with raw_server(trickle) as port:
        url = SecretStr(f"json://{HOST}:{port}/")
        send = through_apprise(AppriseSettings(kind="apprise", name="team", url=url, timeout_s=0.2))
        answers = [run_in_loop(send([notice_of(alert(7), LINK)], BEGIN)) for _ in range(3)]
    errors = [error_of(answer) for answer in answers]
    assert errors == ["JSON: no complete answer within 0.2 s"] + ["JSON: an earlier attempt still hangs"] * 2
    assert not any(answer.final for answer in answers)


def test_a_thread_that_hangs_delays_neither_other_handlers_nor_the_end() -> None:
    ledger = Ledger()
    with raw_server(trickle) as port, http_server() as inbox:
        text = "".join(
            f'[[handlers]]\nkind = "apprise"\nname = "{name}"\nurl = "json://{HOST}:{to}/"\ntimeout_s = 60\n'
            for name, to in (("hangs", port), ("team", inbox.port))
        )
        handlers = build_handlers(parse_delivery(text, "delivery.toml"))
        deliverer = Deliverer(handlers, record=ledger.record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True)
        deliverer.start()
        for number in range(20):
            deliverer.offer(alert(number).record)
        assert ledger.wait_for(20) == [("team", "delivered")] * 20
        deliverer.close(0.0)
        assert deliverer.outstanding() == 20


SECRET_URLS = [
    "json://{host}/xyzzy-path/?+X-Token=xyzzy-header",
    "json://user:xyzzy-password@{host}/a",
    "json://user:xyzzy%2Dpassword@{host}/a",
    "json://{host}/a?-key=xyzzy-parameter",
]


@pytest.mark.parametrize("url", SECRET_URLS)
def test_no_part_of_a_url_is_shown(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    watching = Watching()
    logging.getLogger().addHandler(watching)
    try:
        with http_server(inbox=Inbox(status=400, body=b"not xyzzy-path xyzzy-header xyzzy-password xyzzy-parameter")) as inbox:
            whole = url.format(host=f"{HOST}:{inbox.port}")
            settings = parse_delivery(f'[[handlers]]\nkind = "apprise"\nname = "team"\nurl = "{whole}"\n', "delivery.toml")
            handlers = build_handlers(settings)
            tests = list(run_handler_tests(handlers))
    finally:
        logging.getLogger().removeHandler(watching)
    assert len(inbox.got) == 1
    error = error_of(tests[0].answer)
    assert "error=400" in error
    part = "xyzzy-" + whole.replace("%2D", "-").partition("xyzzy-")[2].partition("@")[0].partition("/")[0].partition("&")[0]
    shown = [error, str(settings), repr(settings), repr(handlers), repr(tests), *seen, *capfd.readouterr()]
    assert not any(part in text for text in shown)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("xyzzy", "a URL that apprise knows"),
        ("xyzzy://a/b", "a URL that apprise knows"),
        ("slack://xyzzy", "a URL that apprise knows"),
        ("json://[xyzzy/", "a URL that apprise knows"),
        ("mailto://xyzzy:xyzzy@example.org", "mailtos instead of a URL without TLS, or this machine"),
        ("json://example.org/xyzzy", "jsons instead of a URL without TLS, or this machine"),
        ("jsons://example.org/xyzzy?verify=no", "certificates to be verified"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_handlers_name_and_not_shown(
    url: str, reason: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESPER_TEST_URL", url)
    settings = parse_delivery('[[handlers]]\nkind = "apprise"\nname = "team"\nurl_env = "ESPER_TEST_URL"\n', "f")
    with pytest.raises(SettingsError, match=f"handler team: the url in ESPER_TEST_URL: expected .*{reason}") as refused:
        build_handlers(settings)
    chain: BaseException | None = refused.value
    while chain is not None:
        assert "xyzzy" not in f"{chain!s} {chain!r}"
        chain = chain.__cause__ or chain.__context__
    assert "xyzzy" not in "".join(capfd.readouterr())
