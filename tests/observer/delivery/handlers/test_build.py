"""From settings to handlers: secrets are read once, URLs checked, and no error shows either."""

from pathlib import Path

import pytest

from esper.errors import SettingsError
from esper.observer.delivery.exchange import Answer
from esper.observer.delivery.handlers.build import build_handlers
from esper.observer.delivery.handlers.signing import HEADER, verify
from esper.observer.delivery.limits import Limits
from esper.observer.delivery.notices import notice_of
from esper.observer.delivery.settings import DEFAULT, parse_delivery
from tests.observer.delivery.handlers.servers import HOST, http_server
from tests.observer.delivery.made import BEGIN, LINK, alert


def webhook(*keys: str) -> str:
    return "\n".join(["[[handlers]]", 'kind = "webhook"', 'name = "team"', *keys])


def test_limits_come_from_the_settings() -> None:
    text = webhook('url = "http://a"', 'severity = "critical"', "rate_per_minute = 6", "burst = 2", "attempts = 3")
    [handler] = build_handlers(parse_delivery(f"deliver_within_s = 60\n{text}", "f"))
    expected = Limits(severity="critical", rate_per_minute=6.0, burst=2, attempts=3, deliver_within_s=60.0)
    assert (handler.name, handler.limits) == ("team", expected)


def test_only_alertmanager_is_sent_to_again() -> None:
    text = webhook('url = "http://a"').replace("webhook", "alertmanager") + "\nresend_s = 30"
    assert build_handlers(parse_delivery(text, "f"))[0].limits.resend_s == 30.0
    assert build_handlers(DEFAULT)[0].limits.resend_s is None


def test_secrets_and_a_secret_url_come_from_files_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with http_server() as inbox:
        (tmp_path / "url").write_text(f"http://{HOST}:{inbox.port}/services/xyzzy?a=b\n")
        (tmp_path / "secret").write_text("hush\n")
        monkeypatch.setenv("ESPER_TEST_TOKEN", "t0ken")
        text = webhook(f'url_file = "{tmp_path}/url"', f'secret_file = "{tmp_path}/secret"', 'token_env = "ESPER_TEST_TOKEN"')
        [handler] = build_handlers(parse_delivery(text, "f"))
        assert handler.send([notice_of(alert(7), LINK)], BEGIN) == Answer(delivered=True)
    [got] = inbox.got
    assert got.path == "/services/xyzzy?a=b"
    assert got.headers["Authorization"] == "Bearer t0ken"
    assert verify(got.headers[HEADER], got.body, "hush", BEGIN.timestamp())


def test_alertmanagers_path_stands_below_the_url() -> None:
    with http_server() as inbox:
        for below in ("", "/", "/am/"):
            text = webhook(f'url = "http://{HOST}:{inbox.port}{below}"').replace("webhook", "alertmanager")
            build_handlers(parse_delivery(text, "f"))[0].send([notice_of(alert(7), LINK)], BEGIN)
    assert [got.path for got in inbox.got] == ["/api/v2/alerts", "/api/v2/alerts", "/am/api/v2/alerts"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://xyzzy.example.org/",
        "file:///etc/xyzzy",
        "xyzzy.example.org",
        "http://",
        "http:///xyzzy",
        "http://xyzzy:99999/",
        "http://xyzzy:0/",
        "http://[xyzzy/",
        "http://user:xyzzy@example.org/",
        "http://example.org/#xyzzy",
        "http://example.org/xyz\tzy",
        "http://example.org/xyzzy\r\nX-More: yes",
        "http://exämple.org/xyzzy",
    ],
)
def test_what_cannot_be_posted_to_is_refused_without_being_shown(tmp_path: Path, url: str) -> None:
    (tmp_path / "place").write_text(url)
    with pytest.raises(SettingsError, match=r"handler team: the url in .*/place: expected") as refused:
        build_handlers(parse_delivery(webhook(f'url_file = "{tmp_path}/place"'), "f"))
    assert "xyzzy" not in str(refused.value)
    assert "xyzzy" not in repr(refused.value.__cause__)


def test_a_token_is_not_sent_in_plain_text_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_TEST_TOKEN", "t0ken")
    with pytest.raises(SettingsError, match="handler team: url: expected https where a token is sent, or this machine"):
        build_handlers(parse_delivery(webhook('url = "http://example.org"', 'token_env = "ESPER_TEST_TOKEN"'), "f"))


def test_a_secret_that_is_missing_names_handler_and_place() -> None:
    with pytest.raises(SettingsError, match="handler team: expected a secret in /nowhere/secret: No such file"):
        build_handlers(parse_delivery(webhook('url = "http://a"', 'secret_file = "/nowhere/secret"'), "f"))


def test_certificates_that_are_missing_name_handler_and_place() -> None:
    with pytest.raises(SettingsError, match="handler team: expected certificates in /nowhere/ca"):
        build_handlers(parse_delivery(webhook('url = "https://a"', 'ca_file = "/nowhere/ca"'), "f"))


def test_mail_needs_nothing_but_a_server_a_sender_and_a_recipient() -> None:
    text = '[[handlers]]\nkind = "smtp"\nname = "mail"\nhost = "mail.example.org"\nfrom = "a@example.org"\nto = ["b@example.org"]\n'
    [handler] = build_handlers(parse_delivery(text, "f"))
    assert handler.name == "mail"
