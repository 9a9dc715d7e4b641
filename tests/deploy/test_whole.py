"""A real `esper nissa` over a run: what it serves passes promtool, a real Prometheus scrapes it, and schemathesis finds nothing."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from esper.oona.directory import Directory
from tests.synthetic import write_run

pytestmark = pytest.mark.whole
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of `esper nissa`, a process of its own, over a finished run and one that was interrupted."""
    path = tmp_path_factory.mktemp("log")
    write_run(Directory(path))
    write_run(Directory(path), run=Directory(path).names()[0].replace("7c21ab", "7c21ac"), finish=False)  # type: ignore[arg-type]
    port = free_port()
    command = (sys.executable, "-m", "esper.cli", "nissa", "--log", path, "--port", str(port))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        until(f"http://127.0.0.1:{port}/readyz", lambda ready: ready["status"] == "ready", process)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_promtool_accepts_the_metrics(served: int, promtool: Path) -> None:
    metrics = asked(f"http://127.0.0.1:{served}/metrics")
    done = subprocess.run([promtool, "check", "metrics"], input=metrics, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_real_prometheus_scrapes_it(served: int, prometheus: Path, tmp_path: Path) -> None:
    port = free_port()
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


def test_schemathesis_finds_nothing(served: int, tmp_path: Path) -> None:
    # The live tail never ends; it has tests of its own.
    command = (
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{served}/api/v1/openapi.json", "--checks", "all"),
        *("--exclude-path", "/api/v1/runs/{run}/tail", "--max-examples", "15", "--seed", "1", "--suppress-health-check", "all"),
        "--continue-on-failure",
    )
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
