"""Mail: plain text over SMTP, never without TLS. A message's key is in its Message-ID: mail programs show one that came twice once."""

import re
import smtplib
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Literal, NamedTuple

from esper.observer.delivery.exchange import Answer, Send
from esper.observer.delivery.handlers.connection import Peer, connected
from esper.observer.delivery.handlers.secret import Secret, readable
from esper.observer.delivery.notices import Notice

LONGEST_SUBJECT = 150


class Mailbox(NamedTuple):
    """Which server takes the mail, who sends it, and to whom."""

    peer: Peer
    starts: Literal["starttls", "tls"]
    sender: str
    recipients: tuple[str, ...]
    username: str | None
    password: Secret | None


def mail_of(notice: Notice, mailbox: Mailbox, now: datetime) -> EmailMessage:
    """The mail about one notice. A resolution answers the mail of its firing, so that both stand in one thread."""
    status = "firing" if notice.firing else "resolved"
    mail = EmailMessage()
    mail["From"] = mailbox.sender
    mail["To"] = ", ".join(mailbox.recipients)
    mail["Subject"] = readable(f"[{notice.severity} {status}] {notice.name}: {notice.summary}", limit=LONGEST_SUBJECT)
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = _message_id(notice, status, mailbox)
    if not notice.firing:
        mail["In-Reply-To"] = _message_id(notice, "firing", mailbox)
        mail["References"] = _message_id(notice, "firing", mailbox)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note should answer.
    text = _text(notice, status)
    mail.set_content(text, cte="7bit" if text.isascii() else "quoted-printable")
    return mail


def _message_id(notice: Notice, status: str, mailbox: Mailbox) -> str:
    # RFC 5322, 3.6.4: letters, digits, hyphens and full stops.
    key = re.sub(r"[^0-9a-zA-Z-]", ".", notice.key)
    return f"<{key}.{status}@{_domain(mailbox)}>"


def _domain(mailbox: Mailbox) -> str:
    return mailbox.sender.rpartition("@")[2]


def _text(notice: Notice, status: str) -> str:
    rows = [f"{notice.name} is {status} ({notice.severity})", "", readable(notice.summary, limit=2000), ""]
    rows += [f"see it: {notice.link.command}"]
    rows += [f"        {notice.link.url}"] if notice.link.url else []
    rows += [f"since:  {notice.since}", f"key:    {notice.key}", "", "labels"]
    rows += [f"  {name}: {readable(value)}" for name, value in sorted(notice.labels.items())]
    said = {name: value for name, value in notice.annotations.items() if name not in {"summary", "command"}}
    rows += ["", "annotations", *(f"  {name}: {readable(value, limit=1000)}" for name, value in sorted(said.items()))] if said else []
    return "\n".join(rows) + "\n"


def mail(mailbox: Mailbox) -> Send:
    """A sender of one mail a notice to all recipients."""

    def send(notices: Sequence[Notice], now: datetime) -> Answer:
        [notice] = notices
        secrets = () if mailbox.password is None else (mailbox.password,)
        place = f"{mailbox.peer.host}:{mailbox.peer.port}"
        try:
            refused = _handed_over(mail_of(notice, mailbox, now), mailbox)
        except smtplib.SMTPResponseException as error:
            said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
            text = readable(f"{place}: {error.smtp_code} {said}", secrets)
            return Answer(delivered=False, final=error.smtp_code >= 500, error=text)
        except smtplib.SMTPRecipientsRefused as error:
            worst = min(code for code, _ in error.recipients.values())
            return Answer(delivered=False, final=worst >= 500, error=f"{place}: no recipient was taken: {worst}")
        except smtplib.SMTPNotSupportedError as error:
            return Answer(delivered=False, final=True, error=readable(f"{place}: {error}", secrets))
        except OSError as error:  # SMTPException is one.
            return Answer(delivered=False, error=readable(f"{place}: {type(error).__name__}: {error}", secrets))
        return Answer(delivered=True, error=f"{place}: {refused} of {len(mailbox.recipients)} recipients were refused" if refused else None)

    return send


def _handed_over(message: EmailMessage, mailbox: Mailbox) -> int:
    """How many recipients the server refused, having taken the mail for the others."""
    with connected(mailbox.peer, tls_at_once=mailbox.starts == "tls") as connection:
        # The name is the sender's domain: asking the resolver for this machine's own, the default, may take long.
        client = smtplib.SMTP(local_hostname=_domain(mailbox))
        client.sock = connection
        try:
            _expect(client.getreply(), 220)
            client.ehlo_or_helo_if_needed()
            if mailbox.starts == "starttls":
                _start_tls(client, mailbox.peer)
            if mailbox.username is not None and mailbox.password is not None:
                client.login(mailbox.username, mailbox.password.reveal())
            refused = client.send_message(message)
            with suppress(OSError):  # The mail is theirs already: how they take the goodbye must not send it again.
                client.putcmd("QUIT")
            return len(refused)
        finally:
            client.close()


def _start_tls(client: smtplib.SMTP, peer: Peer) -> None:
    if not client.has_extn("starttls"):
        raise smtplib.SMTPNotSupportedError("the server offers no STARTTLS, and nothing is sent without TLS")
    _expect(client.docmd("STARTTLS"), 220)
    assert peer.tls is not None, "mail always has a context"
    assert client.sock is not None, "just answered"
    client.sock = peer.tls.wrap_socket(client.sock, server_hostname=peer.host)
    # What was said in plain text, and what was read ahead of it, is forgotten (RFC 3207, 4.2).
    client.file = None
    client.helo_resp = client.ehlo_resp = None
    client.esmtp_features = {}
    client.does_esmtp = False
    client.ehlo()


def _expect(reply: tuple[int, bytes], code: int) -> None:
    if reply[0] != code:
        raise smtplib.SMTPResponseException(*reply)
