"""`esper worker`: keeps one worker process of the stream processors alive: `streams`, the Faust application, as a process of its own.

A worker ends by itself after any error, for its successor recovers by the code of a first start; it is started again after a pause that
grows while it fails at once. SIGTERM lets it commit what it has, within `STOP_S`.
"""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from esper.errors import SettingsError
from esper.extras import require_installed

STOP_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.5, 30.0, 60.0
_POLL_S = 0.2


def run_worker(arguments: Sequence[str], stop: threading.Event, report: Callable[[str], None]) -> int:
    """Runs a worker with `arguments` until `stop`, and starts it again whenever it ends; its last exit status, 0 where it stopped in time.

    Raises SettingsError where the stream processors are not installed.
    """
    command, folder = _command()
    pause_s = _FIRST_PAUSE_S
    while True:
        began_at = time.monotonic()
        process = subprocess.Popen([*command, *arguments], cwd=folder, stdin=subprocess.DEVNULL)  # noqa: S603
        while process.poll() is None and not stop.is_set():
            stop.wait(_POLL_S)
        if stop.is_set():
            return _stopped(process, report)
        steady = time.monotonic() > began_at + _STEADY_S
        pause_s = _FIRST_PAUSE_S if steady else min(2 * pause_s, _LONGEST_PAUSE_S)
        report(f"the worker ended with {process.returncode}; it is started again in {pause_s:.0f} s")
        if stop.wait(pause_s * (1 + random.random())):
            return 0


def _stopped(process: "subprocess.Popen[bytes]", report: Callable[[str], None]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return max(0, process.wait(STOP_S))
    except subprocess.TimeoutExpired:
        report(f"the worker did not stop within {STOP_S:.0f} s and is killed; its partitions' next owner aborts what it left open")
        process.kill()
        return process.wait()


def _command() -> tuple[list[str], Path | None]:
    """The command of a worker, and the folder to start it in: `streams` of a checkout, else `esper_streams`, which the wheel makes of it.

    An installation that is edited has both, and the second is as old as the installation.
    """
    require_installed("esper worker", "kafka", "faust", "aiokafka")
    checkout = Path(__file__).parents[3]
    if (checkout / "streams" / "__main__.py").exists():
        return [sys.executable, "-m", "streams"], checkout
    if find_spec("esper_streams") is not None:
        return [sys.executable, "-m", "esper_streams"], None
    raise SettingsError("expected the stream processors (esper_streams), got a distribution without them: install esper-training again")
