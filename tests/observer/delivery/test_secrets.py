"""No secret leaves by another way than to its receiver: not in the log, not on standard error, not in an error or a representation."""

import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from esper.errors import SettingsError
from esper.events.codec import encode
from esper.observer.delivery.deliverer import Deliverer
from esper.observer.delivery.delivery_file import parse_delivery
from esper.observer.delivery.handlers import build_handlers, run_handler_tests
from esper.observer.delivery.outbox import AlertOutcome
from tests.observer.delivery.made import BEGIN, LINK, alert
from tests.observer.delivery.servers import HOST, Inbox, http_server, raw_server

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
kind = "apprise"
name = "mail"
url_file = "{folder}/mail-url"
attempts = 1
"""


def test_no_secret_is_shown_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recorded: list[bytes] = []
    done = threading.Semaphore(0)

    def record(outcomes: Sequence[AlertOutcome]) -> None:
        for _, event in outcomes:
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
        mail = f"mailtos://esper:{SECRETS['password']}@{HOST}:{mail_port}?from=esper@example.org&to=night@example.org"
        (tmp_path / "mail-url").write_text(mail)
        settings = parse_delivery(FILE.format(folder=tmp_path), "delivery.toml")
        handlers = build_handlers(settings)
        deliverer = Deliverer(handlers, record=record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True)
        deliverer.start()
        deliverer.offer(alert(1, severity="critical").record)
        for _ in handlers:
            assert done.acquire(timeout=60)
        deliverer.close(60.0)
        trials = list(run_handler_tests(handlers[:3]))
    assert [got.path for got in team.got] == ["/a/services-T00-xyzzy?b=c"] * 2
    assert [got.path for got in alertmanager.got] == ["/a/services-T00-xyzzy/api/v2/alerts"] * 2
    assert [trial.answer.delivered for trial in trials] == [True, False, False]
    shown = [str(settings), repr(handlers), repr(trials), *capfd.readouterr(), *(data.decode() for data in recorded)]
    assert sum("firing loss-not-finite" in text for text in shown) == 1
    assert sum("got 400" in text for text in shown) == 3
    assert sum("(535, b'not with ***')" in text for text in shown) == 1
    for text in shown:
        assert "xyzzy" not in text


@pytest.mark.parametrize("damaged", [b"\xffxyzzy", b"http://[xyzzy/", b"http://a:xyzzy/", b"http://a/xyz zy xyzzy"])
def test_a_secret_that_is_damaged_is_not_shown_either(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "team-url").write_bytes(damaged)
    with pytest.raises(SettingsError) as refused:
        build_handlers(parse_delivery(FILE.format(folder=tmp_path), "delivery.toml"))
    chain: BaseException | None = refused.value
    while chain is not None:
        assert "xyzzy" not in f"{chain!s} {chain!r}"
        chain = chain.__cause__ or chain.__context__
