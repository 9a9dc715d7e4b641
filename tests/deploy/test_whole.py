"""A real `esper nissa` over a run: what it serves passes promtool, a real Prometheus scrapes it, and schemathesis finds nothing."""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from local_kafka import free_ports

from esper.events.envelope import RunId
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.beginnings import run_started, training_described
from tests.synthetic import ticking, write_run

pytestmark = pytest.mark.whole
ROOT = Path(__file__).parents[2]


def asked(url: str, **headers: str) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:  # noqa: S310 - loopback.
        body: bytes = answer.read()
    return body


def until(url: str, holds: Any, process: subprocess.Popen[bytes]) -> Any:  # Any: JSON.
    """The JSON at `url` once `holds` is true of it; fails after half a minute or when the process ends."""
    deadline = time.monotonic() + 30
    last: object = None
    while time.monotonic() < deadline:
        assert process.poll() is None, "the process ended"
        try:
            last = json.loads(asked(url))
            if holds(last):
                return last
        except OSError as error:
            last = error
        time.sleep(0.1)
    raise AssertionError(f"{url} did not come to what was waited for: {last}")


@contextmanager
def nissa(path: Path, **environment: str) -> Iterator[int]:
    """The port of `esper nissa`, a process of its own, once it is ready."""
    port = free_ports(1)[0]
    command = (sys.executable, "-m", "esper.cli", "nissa", "--log", path, "--port", str(port), *(() if environment else ("--open",)))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | environment)
    try:
        until(f"http://127.0.0.1:{port}/readyz", lambda ready: ready["status"] == "ready", process)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_a_live_tail_has_a_proper_end_when_the_service_is_told_to_end(log: Path) -> None:
    port = free_ports(1)[0]
    command = (sys.executable, "-m", "esper.cli", "nissa", "--log", log, "--port", str(port), "--open")
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"ESPER_OBSERVE": "0"}
    )
    until(f"http://127.0.0.1:{port}/readyz", lambda ready: ready["status"] == "ready", process)
    tail = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    tail.request("GET", "/api/v1/runs/latest/tail")
    response = tail.getresponse()
    assert response.readline().startswith(b"id: ")
    process.terminate()
    assert response.read().startswith(b"retry: 2000\n")  # To its end: a stream that was cut off raises IncompleteRead.
    assert (process.communicate(timeout=20)[1], process.returncode) == (b"", 0)
    tail.close()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a finished run, one that was interrupted, and one that says how it is trained."""
    directory = Directory(tmp_path_factory.mktemp("log"))
    run = write_run(directory)
    write_run(directory, run=RunId(run.replace("7c21ab", "7c21ac")), finish=False)
    described = RunId(run.replace("7c21ab", "7c21ad"))
    with directory.create(described) as opened, Emitter(opened, described, clock=ticking()) as emitter:
        emitter.emit(run_started(name="described"), epoch=0, step=0)
        emitter.emit(training_described(), epoch=0, step=0)
    return directory.path


@pytest.fixture(scope="module")
def served(log: Path) -> Iterator[int]:
    """The port of a service over that log."""
    with nissa(log) as port:
        yield port


def test_promtool_accepts_the_metrics(served: int, promtool: Path) -> None:
    metrics = asked(f"http://127.0.0.1:{served}/metrics")
    done = subprocess.run([promtool, "check", "metrics"], input=metrics, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_real_prometheus_scrapes_it(served: int, prometheus: Path, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    targets = [{"targets": [f"127.0.0.1:{served}"]}]
    scrape = {"job_name": "esper", "scrape_interval": "1s", "static_configs": targets}
    rules = str(ROOT / "deploy" / "prometheus" / "esper.rules.yml")
    # JSON is YAML.
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scrape], "rule_files": [rules]}))
    options = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}")
    process = subprocess.Popen((prometheus, *options), stderr=subprocess.DEVNULL)
    try:
        base = f"http://127.0.0.1:{port}/api/v1"
        found = until(f"{base}/query?query=esper_epochs_total", lambda answer: answer["data"]["result"], process)
        assert float(found["data"]["result"][0]["value"][1]) == 13
        [target] = until(f"{base}/targets", lambda answer: answer["data"]["activeTargets"], process)["data"]["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        rules_seen = until(f"{base}/rules", lambda answer: answer["data"]["groups"], process)["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules_seen} <= {"ok", "unknown"}
    finally:
        process.terminate()
        process.wait(timeout=20)


def schemathesis(description: str, folder: Path, *options: str) -> None:
    """Sends what the description allows and what it does not; fails where an answer is not as described."""
    # The live tail never ends; it has tests of its own.
    fixed = ("--checks", "all", "--exclude-path", "/api/v1/runs/{run}/tail", "--seed", "1", "--suppress-health-check", "all")
    command = (sys.executable, "-m", "schemathesis.cli", "run", description, *fixed, "--continue-on-failure", *options)
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout


def test_schemathesis_finds_nothing(served: int, tmp_path: Path) -> None:
    # SQL is answered behind a token alone: the next test asks it.
    schemathesis(f"http://127.0.0.1:{served}/api/v1/openapi.json", tmp_path, "--max-examples", "15", "--exclude-path", "/api/v1/sql")


def test_schemathesis_gets_past_no_route_without_the_token(log: Path, tmp_path: Path) -> None:
    token = "a-token-of-some-length"  # noqa: S105
    with nissa(log, ESPER_NISSA_TOKEN=token) as port:
        url, header = f"http://127.0.0.1:{port}", f"Bearer {token}"
        description = tmp_path / "openapi.json"
        description.write_bytes(asked(f"{url}/api/v1/openapi.json", authorization=header))
        options = ("--url", url, "-H", f"Authorization: {header}", "--phases", "coverage,fuzzing", "--max-examples", "5")
        schemathesis(str(description), tmp_path, *options)
