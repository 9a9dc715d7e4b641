"""The settings file: what it says, and that every mistake in it is refused with its line."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from esper.errors import SettingsError
from esper.observer.delivery.delivery_file import (
    DEFAULT,
    AlertmanagerSettings,
    AppriseSettings,
    HttpSettings,
    LogSettings,
    WebhookSettings,
    parse_delivery,
    readable,
)
from esper.observer.delivery.http_handlers import endpoint_of
from esper.settings import LONGEST_SECRET_BYTES, read_secret

WHOLE = """
deliver_within_s = 300
base_url = "https://nissa.example.org"

[[handlers]]
kind = "log"
name = "lines"
path = "/var/log/esper/alerts.log"

[[handlers]]
kind = "webhook"
name = "team"
url = "https://hooks.example.org/esper"
secret_file = "/run/secrets/esper-webhook"
severity = "warning"

[[handlers]]
kind = "alertmanager"
name = "alertmanager"
url = "http://127.0.0.1:9093"

[[handlers]]
kind = "apprise"
name = "mail"
url_env = "ESPER_MAIL_URL"
severity = "critical"
rate_per_minute = 2
burst = 5
"""


def test_a_file_says_where_alerts_go() -> None:
    settings = parse_delivery(WHOLE, "delivery.toml")
    assert (settings.deliver_within_s, settings.base_url) == (300.0, "https://nissa.example.org")
    assert [type(handler) for handler in settings.handlers] == [LogSettings, WebhookSettings, AlertmanagerSettings, AppriseSettings]
    log, team, alertmanager, mail = settings.handlers
    assert (log.rate_per_minute, log.burst) == (600.0, 600)
    assert (team.severity, team.rate_per_minute, team.burst, team.attempts) == ("warning", 30.0, 30, 15)
    assert isinstance(alertmanager, AlertmanagerSettings)
    assert alertmanager.resend_s == 60.0
    assert isinstance(mail, AppriseSettings)
    assert (mail.url, mail.url_env, mail.rate_per_minute, mail.burst, mail.timeout_s) == (None, "ESPER_MAIL_URL", 2.0, 5, 30.0)


def test_an_empty_file_delivers_to_nobody_and_without_a_file_there_are_lines() -> None:
    assert parse_delivery("", "delivery.toml").handlers == ()
    assert [handler.kind for handler in DEFAULT.handlers] == ["log"]


def webhook(*keys: str) -> str:
    return "\n".join(["[[handlers]]", 'kind = "webhook"', 'name = "team"', 'url = "http://a"', *keys])


MISTAKES = {
    "syntax": ("[[handlers]]\nkind = ", 2, "Invalid value"),
    "unknown table": ("\n[handler]\n", 2, "handler: unknown key, perhaps handlers; expected one of handlers, deliver_within_s, base_url"),
    "not tables": ("handlers = 3", 1, r"expected handlers as \[\[handlers\]\] tables"),
    "no kind": ('[[handlers]]\nname = "a"', 1, "kind: expected one of log, webhook, alertmanager, apprise, got nothing"),
    "unknown kind": (
        '[[handlers]]\nname = "a"\nkind = "pager"',
        3,
        "kind: expected one of log, webhook, alertmanager, apprise, got 'pager'",
    ),
    "kind of another type": (
        '[[handlers]]\nname = "a"\nkind = ["log"]',
        3,
        r"kind: expected one of log, webhook, alertmanager, apprise, got \['log'\]",
    ),
    "no name": ('[[handlers]]\nkind = "log"', 1, "name: expected this key, got nothing"),
    "a bad name": (webhook().replace("team", "Team A"), 3, "name: String should match pattern .*, got 'Team A'"),
    "two of a name": (f"{webhook()}\n{webhook()}", 7, "two handlers of the name 'team': the other is in line 3"),
    "unknown key": (webhook("urgency = 1"), 5, "urgency: unknown key; expected one of name, severity, rate_per_minute, burst"),
    "another kind's key": (webhook('path = "/x"'), 5, "path: unknown key"),
    "a bad severity": (webhook('severity = "bad"'), 5, "severity: expected 'info', 'warning' or 'critical', got 'bad'"),
    "a rate of nothing": (webhook("", "rate_per_minute = 0"), 6, "rate_per_minute: expected a number greater than or equal to 0.1, got 0"),
    "a rate that is no number": (webhook("rate_per_minute = nan"), 5, "rate_per_minute: expected a finite number"),
    "a text for a number": (webhook('burst = "3"'), 5, "burst: expected a whole number, got '3'"),
    "a part of a burst": (webhook("burst = 3.5"), 5, "burst: expected a whole number, got 3.5"),
    "too long a timeout": (webhook("timeout_s = 61"), 5, "timeout_s: expected a number less than or equal to 60, got 61"),
    "no url": (webhook().replace('url = "http://a"', ""), 1, "handler 'team': expected one of url, url_file, url_env"),
    "two urls": (webhook('url_env = "U"'), 5, "expected one of url, url_file, url_env, got url and url_env"),
    "two secrets": (webhook('secret_env = "U"', 'secret_file = "/s"'), 5, "expected one of secret_file, secret_env, got"),
    "a relative path": (webhook('secret_file = "s"'), 5, "secret_file: expected an absolute path$"),
    "a bad variable": (webhook('secret_env = "$U"'), 5, "secret_env: String should match pattern"),
    "a secret itself": (webhook('secret = "hush"'), 5, "secret: unknown key"),
    "a url with spaces": (webhook().replace("http://a", "http://a b"), 4, "url: expected ASCII letters without spaces"),
    "mail by hand": (
        '[[handlers]]\nname = "a"\nkind = "smtp"',
        3,
        'kind: mail goes through apprise: write kind = "apprise", and url_file or',
    ),
    "no url of apprise": ('[[handlers]]\nkind = "apprise"\nname = "a"', 1, "handler 'a': expected one of url, url_file, url_env"),
    "never": ("deliver_within_s = 0", 1, "deliver_within_s: expected a number greater than 0, got 0"),
}


@pytest.mark.parametrize(("text", "line", "reason"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_refused_with_its_line_and_the_reason(text: str, line: int, reason: str) -> None:
    with pytest.raises(SettingsError, match=f"^delivery.toml:{line}: {reason}"):
        parse_delivery(text, "delivery.toml")


def test_a_mistyped_key_does_not_show_a_secret_that_stands_there() -> None:
    with pytest.raises(SettingsError) as refused:
        parse_delivery(webhook('secret = "hush"'), "delivery.toml")
    assert "hush" not in str(refused.value)


def revealed(file: Path | None = None, variable: str | None = None) -> str:
    secret = read_secret(None if file is None else str(file), variable)
    assert secret is not None
    return secret.get_secret_value()


def test_a_url_is_not_shown() -> None:
    text = webhook().replace("http://a", "http://a/hush")
    assert "hush" not in f"{parse_delivery(text, 'f')} {parse_delivery(text, 'f')!r}"


def test_a_secret_is_read_from_a_file_without_the_lines_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b" hush hush \r\n")
    assert revealed(file) == " hush hush "


def test_a_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_TEST_SECRET", "hush")
    assert revealed(variable="ESPER_TEST_SECRET") == "hush"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "found 0"),
        (b"x" * (LONGEST_SECRET_BYTES + 1), "found 65537"),
        (b"\xffhush", "as UTF-8"),
        (b"hush\nhush\n", "one line"),
        (b"hush\x1b[0m", "one line"),
    ],
)
def test_what_is_no_secret_is_refused_without_being_shown(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=expected) as refused:
        revealed(file)
    assert str(file) in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_byte_order_mark_is_no_part_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xef\xbb\xbfhush\n")
    assert revealed(tmp_path / "secret") == "hush"


@pytest.mark.parametrize("content", ["\N{LEFT DOUBLE QUOTATION MARK}hush\N{RIGHT DOUBLE QUOTATION MARK}", " hush", "hush "])
def test_a_token_that_no_header_can_carry_is_refused_when_it_is_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    (settings,) = parse_delivery(webhook(f'token_file = "{tmp_path / "token"}"'), "delivery.toml").handlers
    assert isinstance(settings, HttpSettings)
    with pytest.raises(SettingsError, match=f"expected a token of ASCII letters in {tmp_path / 'token'}") as refused:
        endpoint_of(settings)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("name", ["token_file", "secret_file"])
def test_a_secret_that_is_typed_where_a_path_is_meant_is_not_repeated(name: str) -> None:
    with pytest.raises(SettingsError, match="expected an absolute path") as refused:
        parse_delivery(webhook(f'{name} = "hush-hush"'), "delivery.toml")
    assert "hush" not in str(refused.value)
    with pytest.raises(SettingsError, match="expected a secret in the file that is named: No such file") as missing:
        read_secret("hush-hush", None)
    assert "hush" not in str(missing.value)


def test_where_there_is_nothing_the_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        revealed(tmp_path / "nothing")
    with pytest.raises(SettingsError, match="ESPER_TEST_NOTHING"):
        revealed(variable="ESPER_TEST_NOTHING")


def test_a_secret_is_not_shown() -> None:
    assert "hush" not in f"{SecretStr('hush')} {SecretStr('hush')!r} {[SecretStr('hush')]}"
    assert readable("it is hush-hush.", [SecretStr("hush-hush")]) == "it is ***."
    assert readable("a short one hides nothing", [SecretStr("a")]) == "a short one hides nothing"
