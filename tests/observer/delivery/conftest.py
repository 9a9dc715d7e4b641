"""Certificates of an authority that lives for one session and that nobody else trusts, and a real Alertmanager on loopback."""

import json
import socket
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.programs import program, report

HOST = "127.0.0.1"
_PATIENCE_S = 60.0
_LOOK_S = 0.05

# Everything goes to one webhook, at once: what is tested is what Alertmanager understands, not how it groups.
_CONFIGURATION = """
route: {{receiver: here, group_by: ["..."], group_wait: 0s, group_interval: 1s}}
receivers: [{{name: here, webhook_configs: [{{url: "{url}", send_resolved: true}}]}}]
"""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report(terminalreporter, config)


@dataclass
class RealAlertmanager:
    """A running Alertmanager, and how to ask it."""

    url: str

    def alerts(self) -> list[dict[str, Any]]:  # Any: Alertmanager's JSON.
        """The alerts that it holds to be active."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=_PATIENCE_S) as answer:  # noqa: S310 - of loopback.
            found: list[dict[str, Any]] = json.load(answer)
            return found

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Its active alerts, once there are so many."""
        return self.wait_until(lambda found: len(found) == count)

    def wait_until(self, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Its active alerts, once that holds of them; it tells nobody when they change."""
        waiting = threading.Event()
        for _ in range(int(_PATIENCE_S / _LOOK_S)):
            with suppress(OSError):
                found = self.alerts()
                if holds(found):
                    return found
            waiting.wait(_LOOK_S)
        raise AssertionError(f"it did not come to hold within {_PATIENCE_S:g} s")


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def real_alertmanager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RealAlertmanager, int]]:
    """A real Alertmanager without a cluster, and the free port that it sends its notifications to."""
    executable = program(request.config, "prometheus-alertmanager")
    port, receiver = _free_port(), _free_port()
    (tmp_path / "alertmanager.yml").write_text(_CONFIGURATION.format(url=f"http://{HOST}:{receiver}/"))
    with (tmp_path / "alertmanager.log").open("w") as log:
        process = subprocess.Popen(
            [
                executable,
                f"--config.file={tmp_path}/alertmanager.yml",
                f"--storage.path={tmp_path}/data",
                f"--web.listen-address={HOST}:{port}",
                "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            alertmanager = RealAlertmanager(f"http://{HOST}:{port}")
            alertmanager.wait_for(0)
            yield alertmanager, receiver
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, as a file."""
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


@pytest.fixture(scope="session")
def trusting(ca_file: Path) -> ssl.SSLContext:
    """A client's context that trusts the authority alone."""
    return ssl.create_default_context(cafile=str(ca_file))


def _server(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture(scope="session")
def serving(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context, for 127.0.0.1."""
    return _server(authority, "127.0.0.1")


@pytest.fixture(scope="session")
def serving_another_name(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context for a name that it does not have."""
    return _server(authority, "elsewhere.test")
