"""`esper nissa` starts or says why not: a port that is taken, an address that needs a token, settings with a mistake."""

import resource
import socket
import time
from pathlib import Path
from threading import Event

import pytest

from esper.errors import SettingsError
from esper.events.envelope import RunId
from esper.nissa.custom_metrics import CustomMetrics
from esper.nissa.metrics import LogMetrics
from esper.nissa.service_settings import TOKEN_FILE, TOKEN_VARIABLE, NissaSettings, nissa_settings, read_token, token_of
from esper.oona.directory import Directory
from esper.processes.serve import LogReader, listen
from tests.nissa.server import serving
from tests.synthetic import write_run

TOKEN = "a-token-of-some-length"  # noqa: S105


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def test_a_taken_port_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port}: .*Prometheus uses 9090 too: stop what listens there, or choose another"):
            listen(NissaSettings(port=port))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert read_token(NissaSettings(host=host)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "esper.example"])  # noqa: S104
def test_any_other_address_does(host: str) -> None:
    with pytest.raises(SettingsError, match="can be reached by other machines, so a token is needed"):
        read_token(NissaSettings(host=host))


def test_a_token_comes_from_a_file_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    monkeypatch.setenv(TOKEN_VARIABLE, "another-token-of-length")
    assert read_token(NissaSettings(token_file=file)) == TOKEN
    assert read_token(NissaSettings()) == "another-token-of-length"


@pytest.mark.parametrize("token", ["", "short", "with a space in the middle", "\u00fcmlaut-token-of-length", "line\nbreak-token-of-length"])
def test_a_token_that_is_none_is_refused_and_not_shown(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    with pytest.raises(SettingsError) as refused:
        read_token(NissaSettings(token_file=file))
    assert not token or token not in str(refused.value)


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nissa\.token_file: expected a secret in .*nothing: No such file"):
        read_token(NissaSettings(token_file=tmp_path / "nothing"))


def test_settings_come_from_a_file_and_what_was_typed_goes_before(tmp_path: Path) -> None:
    file = tmp_path / "esper.toml"
    file.write_text('[nissa]\nport = 9191\nnames = ["esper.example"]\nlag_limit_s = 3\ntoken_file = "/t"\n[other]\nx = 1\n')
    settings = nissa_settings(file, {"port": 9292})
    assert settings == NissaSettings(port=9292, names=("esper.example",), lag_limit_s=3, token_file=Path("/t"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nissa]\nprot = 1", "esper.toml:2: prot: unknown key, perhaps port; expected one of host, port, "),
        ('[nissa]\nport = "9090"', "esper.toml:2: port: expected a whole number"),
        ("[nissa]\nport = true", "esper.toml:2: port: expected a whole number"),
        ("[nissa]\nport = 70000", "esper.toml:2: port: expected a number less than or equal to 65535, got 70000"),
        ("[nissa]\nlag_limit_s = nan", "esper.toml:2: lag_limit_s: expected a finite number, got nan"),
        ("[nissa]\nnames = [1]", "esper.toml:2: names.0: expected a text, got 1"),
        ("[nissa]\ntails = 0", "esper.toml:2: tails: expected a number greater than or equal to 1, got 0"),
        ("nissa = 1", "esper.toml:1: expected a table [nissa], got 1"),
        ("[nissa", "esper.toml:1: Expected ']'"),
    ],
)
def test_a_mistake_in_the_settings_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "esper.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        nissa_settings(file, {})
    assert message in str(refused.value)


def test_a_reader_that_fails_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = Directory(tmp_path / "log", create=True)
    failed = Event()
    metrics = LogMetrics(CustomMetrics(lambda _samples: None))
    reader = LogReader(directory, metrics, lambda _runs: None, lambda _run: None)
    reader.on_failure = failed.set
    (tmp_path / "log").rmdir()
    reader.start()
    assert failed.wait(20)
    reader.stop()
    assert capsys.readouterr().err == f"esper nissa: cannot list {directory.path}: No such file or directory\n"
    assert metrics.status.caught_up_at is None


@pytest.mark.whole
def test_runs_are_counted_by_how_they_stand(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, telemetry=False)
    write_run(directory, run=RunId("01f00000-0000-7000-8000-000000000001"), finish=False, until_epoch=1, telemetry=False)
    machine, training = RunId("machine:here:2026-01-01"), RunId("01f00000-0000-7000-8000-000000000002")
    with directory.create(machine), directory.create(training), serving(tmp_path) as client:
        # A run's lock is looked at once a second: until then one that nobody writes may pass for live.
        while (status := client.service.metrics.status).interrupted != 1:
            time.sleep(0.01)
        assert (len(status.live), status.interrupted, status.sealed) == (1, 1, 1)
        metrics = client.get("/metrics").body.decode()
    assert 'esper_runs{standing="live"} 1.0\nesper_runs{standing="interrupted"} 1.0\nesper_runs{standing="sealed"} 1.0\n' in metrics


def test_a_reader_goes_on_after_the_system_was_short_of_descriptors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = LogMetrics(CustomMetrics(lambda _samples: None))
    reader = LogReader(Directory(tmp_path), metrics, lambda _runs: None, lambda _run: None)
    limits, said = resource.getrlimit(resource.RLIMIT_NOFILE), ""
    reader.start()
    while metrics.status.caught_up_at is None:
        time.sleep(0.01)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        while f"cannot list {tmp_path}: Too many open files; trying again" not in said:
            said += capsys.readouterr().err
        short_at = metrics.status.caught_up_at
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    while metrics.status.caught_up_at == short_at:
        time.sleep(0.01)
    reader.stop()
    assert not reader.failed


def test_a_token_is_made_once_for_its_owner_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = token_of(NissaSettings(), tmp_path)
    assert token is not None
    assert len(token) >= 32
    assert (tmp_path / TOKEN_FILE).stat().st_mode & 0o777 == 0o600
    assert token_of(NissaSettings(), tmp_path) == token
    assert capsys.readouterr().err == ""


def test_an_open_service_asks_for_no_token_and_makes_none(tmp_path: Path) -> None:
    assert token_of(NissaSettings(open=True), tmp_path) is None
    assert not (tmp_path / TOKEN_FILE).exists()


def test_an_open_service_is_not_reached_by_other_machines(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nissa\.host: 0\.0\.0\.0 can be reached by other machines"):
        token_of(NissaSettings(open=True, host="0.0.0.0"), tmp_path)  # noqa: S104


def test_a_link_in_the_place_of_the_token_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / TOKEN_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingsError):
        token_of(NissaSettings(), tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_token_that_others_may_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o644)
    assert read_token(NissaSettings(token_file=file)) == TOKEN
    assert capsys.readouterr().err == f"esper: the secret in {file} may be read by others (mode 644): chmod 600 {file}\n"


def test_settings_that_others_may_change_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "esper.toml"
    file.write_text("[nissa]\nport = 9191\n")
    file.chmod(0o664)
    assert nissa_settings(file, {}).port == 9191
    assert capsys.readouterr().err == f"esper: settings in {file} may be changed by others (mode 664): chmod go-w {file}\n"
