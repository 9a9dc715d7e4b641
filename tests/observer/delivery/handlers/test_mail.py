"""Mail, against real mail servers: never without TLS, once for each notice, and with a key in it."""

import email
import email.policy
import ssl

import pytest

from esper.observer.delivery.exchange import Answer
from esper.observer.delivery.handlers.connection import Peer
from esper.observer.delivery.handlers.mail import Mailbox, mail, mail_of
from esper.observer.delivery.handlers.secret import Secret
from esper.observer.delivery.notices import Notice, linker, notice_of
from tests.observer.delivery.handlers.servers import HOST, MailServer, mail_server, peer, raw_server, silent
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert

PASSWORD = "correct horse"  # noqa: S105 - of servers that live for a test.


def mailbox(
    where: Peer, *, at_once: bool = False, password: str | None = PASSWORD, recipients: tuple[str, ...] = ("one@example.org",)
) -> Mailbox:
    return Mailbox(
        peer=where,
        starts="tls" if at_once else "starttls",
        sender="esper@example.org",
        recipients=recipients,
        username=None if password is None else "esper",
        password=None if password is None else Secret(password),
    )


def sent(box: Mailbox, notice: Notice | None = None) -> Answer:
    return mail(box)([notice or notice_of(alert(7), LINK)], BEGIN)


@pytest.mark.parametrize("at_once", [False, True], ids=["starttls", "tls"])
def test_a_mail_is_handed_over_after_tls_and_login(serving: ssl.SSLContext, trusting: ssl.SSLContext, at_once: bool) -> None:
    with mail_server(serving, MailServer(), at_once=at_once) as server:
        answer = sent(mailbox(peer(server.port, tls=trusting), at_once=at_once, recipients=("one@example.org", "two@example.org")))
        assert answer == Answer(delivered=True)
    assert server.users == ["esper"]
    assert server.recipients == [["one@example.org", "two@example.org"]]
    [got] = server.got
    assert got["Subject"] == "[warning firing] loss-not-finite: the loss is not a finite number"
    assert got["Message-ID"] == f"<{RUN}.{7:016x}.2026-03-01T12.00.00.000250Z.firing@example.org>"
    text = str(got.get_payload())
    assert f"esper show {RUN} --at 1234" in text
    assert f"{RUN}/{7:016x}/2026-03-01T12:00:00.000250Z" in text


def test_without_a_user_nobody_logs_in(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer()) as server:
        assert sent(mailbox(peer(server.port, tls=trusting), password=None)).delivered
    assert server.users == []


def test_nothing_is_sent_to_a_server_that_offers_no_tls(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer(offers_starttls=False)) as server:
        answer = sent(mailbox(peer(server.port, tls=trusting)))
    assert answer == Answer(
        delivered=False, final=True, error=f"{HOST}:{server.port}: the server offers no STARTTLS, and nothing is sent without TLS"
    )
    assert (server.users, server.got) == ([], [])


@pytest.mark.parametrize("at_once", [False, True], ids=["starttls", "tls"])
def test_nothing_is_sent_to_a_server_that_cannot_be_trusted(serving: ssl.SSLContext, at_once: bool) -> None:
    with mail_server(serving, MailServer(), at_once=at_once) as server:
        answer = sent(mailbox(peer(server.port, tls=ssl.create_default_context()), at_once=at_once))
    assert not answer.delivered
    assert answer.error is not None
    assert "certificate" in answer.error
    assert (server.users, server.got) == ([], [])


def test_a_wrong_password_is_final_and_not_shown(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer(password=PASSWORD[1:])) as server:
        answer = sent(mailbox(peer(server.port, tls=trusting)))
    assert answer.final
    assert answer.error is not None
    assert answer.error.startswith(f"{HOST}:{server.port}: 535")
    assert PASSWORD not in answer.error


@pytest.mark.parametrize(("said", "final"), [("451 later", False), ("554 never", True)])
def test_a_refusal_is_final_or_not_as_the_server_says(serving: ssl.SSLContext, trusting: ssl.SSLContext, said: str, final: bool) -> None:
    with mail_server(serving, MailServer(data_answer=said)) as server:
        assert sent(mailbox(peer(server.port, tls=trusting))) == Answer(delivered=False, final=final, error=f"{HOST}:{server.port}: {said}")


@pytest.mark.parametrize(("said", "final"), [("450 busy", False), ("550 no such user", True)])
def test_when_no_recipient_is_taken_it_is_not_delivered(serving: ssl.SSLContext, trusting: ssl.SSLContext, said: str, final: bool) -> None:
    with mail_server(serving, MailServer(refusals={"one@example.org": said})) as server:
        answer = sent(mailbox(peer(server.port, tls=trusting)))
    assert answer == Answer(delivered=False, final=final, error=f"{HOST}:{server.port}: no recipient was taken: {said[:3]}")


def test_when_some_recipients_are_taken_it_is_delivered_and_says_so(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer(refusals={"two@example.org": "550 no such user"})) as server:
        answer = sent(mailbox(peer(server.port, tls=trusting), recipients=("one@example.org", "two@example.org")))
    assert answer == Answer(delivered=True, error=f"{HOST}:{server.port}: 1 of 2 recipients were refused")


def test_a_server_that_hangs_is_left_in_time(trusting: ssl.SSLContext) -> None:
    with raw_server(silent) as port:
        answer = sent(mailbox(peer(port, tls=trusting, timeout_s=0.05)))
    assert answer == Answer(delivered=False, error=f"{HOST}:{port}: TimeoutError: no complete answer within 0.05 s")


def test_a_server_that_hangs_up_is_tried_again(serving: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    with mail_server(serving, MailServer(drops_after_data=True)) as server:
        answer = sent(mailbox(peer(server.port, tls=trusting)))
    assert (answer.delivered, answer.final) == (False, False)


def test_a_resolution_answers_the_mail_of_its_firing() -> None:
    box = mailbox(peer(25))
    firing = mail_of(notice_of(alert(7), LINK), box, BEGIN)
    resolved = mail_of(notice_of(alert(7, firing=False), LINK), box, BEGIN)
    assert resolved["Subject"].startswith("[warning resolved]")
    assert resolved["In-Reply-To"] == resolved["References"] == firing["Message-ID"]
    assert resolved["Message-ID"] != firing["Message-ID"]
    again = mail_of(notice_of(alert(7), LINK), box, BEGIN)
    assert again["Message-ID"] == firing["Message-ID"]


def test_foreign_text_makes_no_header_and_keeps_its_letters() -> None:
    annotations = {"summary": "größer\r\nBcc: everybody@example.org\r\n\r\nbody", "runbook": "see ∞\n.\nQUIT"}
    made = mail_of(notice_of(alert(7, annotations=annotations), linker(base_url="http://n")), mailbox(peer(25)), BEGIN)
    parsed = email.message_from_bytes(made.as_bytes(), policy=email.policy.default)
    assert parsed["Bcc"] is None
    assert parsed["Subject"] == "[warning firing] loss-not-finite: größer Bcc: everybody@example.org body"
    text = parsed.get_content()
    assert "  runbook: see ∞ . QUIT\n" in text
    assert f"http://n/api/v1/runs/{RUN}/state?at=1234" in text
    assert made.as_bytes().isascii()
