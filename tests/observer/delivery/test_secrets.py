"""No secret leaves by another way than to its receiver: not in the log, not on standard error, not in an error or a representation."""

import socket
import threading
from pathlib import Path

import pytest

from esper.errors import SettingsError
from esper.events.codec import encode
from esper.events.envelope import RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.deliverer import Deliverer
from esper.observer.delivery.handlers.build import build_handlers
from esper.observer.delivery.settings import parse_delivery
from esper.observer.delivery.trial import try_out
from tests.observer.delivery.handlers.servers import HOST, Inbox, http_server, raw_server
from tests.observer.delivery.made import BEGIN, LINK, alert, record_of

SECRETS = {"url": "services-T00-xyzzy", "token": "t0ken-xyzzy", "secret": "hush-xyzzy", "password": "horse-xyzzy"}

FILE = """
[[handlers]]
kind = "log"
name = "lines"

[[handlers]]
kind = "webhook"
name = "team"
url_file = "{folder}/team-url"
token_file = "{folder}/token"
secret_file = "{folder}/secret"
attempts = 2

[[handlers]]
kind = "alertmanager"
name = "alertmanager"
url_file = "{folder}/alertmanager-url"
token_file = "{folder}/token"
attempts = 1

[[handlers]]
kind = "smtp"
name = "mail"
host = "127.0.0.1"
port = {port}
username = "esper"
password_file = "{folder}/password"
from = "esper@example.org"
to = ["night@example.org"]
attempts = 1
"""


def test_no_secret_is_shown_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recorded: list[bytes] = []
    done = threading.Semaphore(0)

    def record(_run: RunId, event: AlertNotified | AlertSuppressed) -> None:
        recorded.append(encode(event))
        done.release()

    def greet(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(f"535 not with {SECRETS['password']}\r\n".encode())
        over.wait()

    signed, plain = (" ".join(SECRETS[name] for name in names).encode() for names in (["url", "token", "secret"], ["url", "token"]))
    with (
        http_server(inbox=Inbox(status=400, body=signed)) as team,
        http_server(inbox=Inbox(status=400, body=plain)) as alertmanager,
        raw_server(greet) as mail_port,
    ):
        for name, text in SECRETS.items():
            (tmp_path / name).write_text(text)
        for name, port in (("team", team.port), ("alertmanager", alertmanager.port)):
            (tmp_path / f"{name}-url").write_text(f"http://{HOST}:{port}/a/{SECRETS['url']}?b=c")
        settings = parse_delivery(FILE.format(folder=tmp_path, port=mail_port), "delivery.toml")
        handlers = build_handlers(settings)
        deliverer = Deliverer(handlers, record=record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True)
        deliverer.start()
        deliverer.offer(record_of(alert(1, severity="critical")))
        for _ in handlers:
            assert done.acquire(timeout=60)
        deliverer.close(60.0)
        trials = list(try_out(handlers[:3], lambda: BEGIN))
    assert [got.path for got in team.got] == ["/a/services-T00-xyzzy?b=c"] * 2
    assert [got.path for got in alertmanager.got] == ["/a/services-T00-xyzzy/api/v2/alerts"] * 2
    assert [trial.answer.delivered for trial in trials] == [True, False, False]
    shown = [str(settings), repr(handlers), repr(trials), *capfd.readouterr(), *(data.decode() for data in recorded)]
    assert sum("firing loss-not-finite" in text for text in shown) == 1
    assert sum("got 400" in text for text in shown) == 3
    assert sum("535 not with ***" in text for text in shown) == 1
    for text in shown:
        assert "xyzzy" not in text


@pytest.mark.parametrize("damaged", [b"\xffxyzzy", b"http://[xyzzy/", b"http://a:xyzzy/", b"http://a/xyz zy xyzzy"])
def test_a_secret_that_is_damaged_is_not_shown_either(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "team-url").write_bytes(damaged)
    with pytest.raises(SettingsError) as refused:
        build_handlers(parse_delivery(FILE.format(folder=tmp_path, port=25), "delivery.toml"))
    chain: BaseException | None = refused.value
    while chain is not None:
        assert "xyzzy" not in f"{chain!s} {chain!r}"
        chain = chain.__cause__ or chain.__context__
