"""`make demo-kafka` shows what it promises, and leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from local_kafka import can_run

from esper.observer.leader import OBSERVE_VARIABLE

pytestmark = [pytest.mark.kafka, pytest.mark.whole, pytest.mark.skipif(not can_run(), reason="needs Java")]

ROOT = Path(__file__).parents[2]
_WITHIN_S = 280


def demo(folder: Path) -> "subprocess.Popen[str]":
    """The demo, with its files in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != OBSERVE_VARIABLE}  # With it, Nissa delivers nothing.
    return subprocess.Popen(
        [sys.executable, "deploy/kafka/demo.py"],
        cwd=ROOT,
        env={**environment, "TMPDIR": os.fspath(folder)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def left_behind(folder: Path) -> list[str]:
    """The demo's files in `folder`, and the processes that were started with their names."""
    found = [path.name for path in folder.glob("esper-demo-kafka-*")]
    for process in psutil.process_iter(["cmdline"]):
        found += [word for word in process.info["cmdline"] or () if os.fspath(folder) in word]
    return found


def test_it_shows_records_an_alert_and_a_takeover(tmp_path: Path) -> None:
    with demo(tmp_path) as shown:
        told = shown.communicate(timeout=_WITHIN_S)[0]
    assert shown.returncode == 0, told
    for words in (
        "telemetry.training.steps +",
        "Nissa delivered it to a webhook of this demo: ",
        "has all 4 partitions after",
    ):
        assert words in told
    assert left_behind(tmp_path) == []


def test_interrupted_it_leaves_nothing_behind(tmp_path: Path) -> None:
    with demo(tmp_path) as shown:
        assert shown.stdout is not None
        while "has partitions" not in (line := shown.stdout.readline()):
            assert line, "it ended before its workers had started"
        shown.send_signal(signal.SIGINT)
        assert shown.wait(_WITHIN_S) == 130
    assert left_behind(tmp_path) == []
