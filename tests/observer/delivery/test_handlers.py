"""From settings to handlers: secrets are read once, URLs checked, and no error shows either; lines of text, and test messages."""

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from esper.errors import SettingsError
from esper.observer.delivery.deliverer import Handler, run_in_loop
from esper.observer.delivery.delivery_file import DEFAULT, parse_delivery
from esper.observer.delivery.handlers import build_handlers, line, lines_to, run_handler_tests
from esper.observer.delivery.notices import Notice, linker, notice_of
from esper.observer.delivery.outbox import AttemptResult, Limits
from esper.observer.delivery.signing import HEADER, verify
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert, now
from tests.observer.delivery.servers import HOST, Inbox, http_server


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
        assert run_in_loop(handler.send([notice_of(alert(7), LINK)], BEGIN)) == AttemptResult(delivered=True)
    [got] = inbox.got
    assert got.path == "/services/xyzzy?a=b"
    assert got.headers["Authorization"] == "Bearer t0ken"
    assert verify(got.headers[HEADER], got.body, "hush", BEGIN.timestamp())


def test_alertmanagers_path_stands_below_the_url() -> None:
    with http_server() as inbox:
        for below in ("", "/", "/am/"):
            text = webhook(f'url = "http://{HOST}:{inbox.port}{below}"').replace("webhook", "alertmanager")
            [handler] = build_handlers(parse_delivery(text, "f"))
            run_in_loop(handler.send([notice_of(alert(7), LINK)], BEGIN))
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
    with pytest.raises(
        SettingsError, match=r"handler team: (the url in .*/place: expected|expected a secret of one line in .*/place)"
    ) as refused:
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


def test_a_line_says_what_and_where_to_look() -> None:
    assert line(notice_of(alert(7), LINK), now(2).time) == (
        "2026-03-01T12:00:02.000250Z warning firing loss-not-finite: the loss is not a finite number"
        f" | esper show {RUN} --at 1234 | {RUN}/{7:016x}/2026-03-01T12:00:00.000250Z"
    )
    page = line(notice_of(alert(7, firing=False), linker(base_url="http://n")), BEGIN)
    assert "warning resolved loss-not-finite" in page
    assert f" | http://n/api/v1/runs/{RUN}/state?at=1234 | " in page


def test_foreign_text_can_neither_break_a_line_nor_move_the_cursor() -> None:
    made = line(notice_of(alert(7, annotations={"summary": "one\ntwo\x1b[2J\u2028three " + "x" * 5000}), LINK), BEGIN)
    assert made.isprintable()
    assert "one two [2J three xxx" in made
    assert len(made) < 1500


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_in_loop(lines_to(None)([notice_of(alert(7), LINK)], BEGIN)).delivered
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", line(notice_of(alert(7), LINK), BEGIN) + "\n")


def test_lines_are_appended_to_a_file(tmp_path: Path) -> None:
    send = lines_to(tmp_path / "alerts.log")
    for number in (7, 8):
        run_in_loop(send([notice_of(alert(number), LINK)], BEGIN))
    assert [f"{number:016x}" in text for number, text in zip((7, 8), (tmp_path / "alerts.log").read_text().splitlines(), strict=True)]


def test_a_file_that_cannot_be_written_is_an_answer(tmp_path: Path) -> None:
    answer = run_in_loop(lines_to(tmp_path)([notice_of(alert(7), LINK)], BEGIN))
    assert (answer.delivered, answer.error) == (False, f"cannot write to {tmp_path}: Is a directory")


def test_every_handler_is_tried_whatever_its_severity_and_the_others() -> None:
    with http_server() as team, http_server(inbox=Inbox(status=500)) as broken:
        text = "".join(
            f'[[handlers]]\nkind = "webhook"\nname = "{name}"\nurl = "http://{HOST}:{inbox.port}"\nseverity = "critical"\n'
            for name, inbox in (("broken", broken), ("team", team))
        )
        trials = list(run_handler_tests(build_handlers(parse_delivery(text, "f"))))
    assert [(trial.handler, trial.answer.delivered) for trial in trials] == [("broken", False), ("team", True)]
    assert trials[0].answer.error == f"expected status 2xx from {HOST}:{broken.port}, got 500"
    assert all(trial.took_s >= 0 for trial in trials)
    [got] = team.got
    [alert] = json.loads(got.body)["alerts"]
    assert (alert["labels"]["alertname"], alert["labels"]["handler"]) == ("esper-test", "team")


def test_a_handler_that_breaks_is_told_of_like_any_other() -> None:
    async def broken(notices: Sequence[Notice], now: datetime) -> AttemptResult:
        raise KeyError(f"{notices} {now}")

    [trial] = run_handler_tests([Handler("broken", Limits(), broken)])
    assert trial.answer == AttemptResult(delivered=False, final=True, error="the handler broke: KeyError")


def test_lines_of_text_need_neither_httpx_nor_apprise() -> None:
    script = (
        "import sys; from esper.observer.build import build_handlers; from esper.observer.delivery.delivery_file import DEFAULT;"
        "build_handlers(DEFAULT); print({'httpx', 'apprise'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout == "set()\n"


def test_the_first_request_of_a_process_imports_nothing_more() -> None:
    script = (
        "import sys, datetime; from esper.observer.delivery import deliverer, delivery_file, handlers, notices;"
        'text = \'[[handlers]]\\nkind = "webhook"\\nname = "team"\\nurl = "http://127.0.0.1:\' + sys.argv[1] + \'"\';'
        "[handler] = handlers.build_handlers(delivery_file.parse_delivery(text, 'f'));"
        "now = datetime.datetime.now(datetime.UTC); notice = notices.handler_test_notice('team', now); before = set(sys.modules);"
        "print(deliverer.run_in_loop(handler.send([notice], now)).delivered, set(sys.modules) - before)"
    )
    with http_server() as inbox:
        found = subprocess.run([sys.executable, "-c", script, str(inbox.port)], check=True, capture_output=True, text=True)
    assert found.stdout == "True set()\n"
