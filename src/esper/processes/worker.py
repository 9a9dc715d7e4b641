"""`esper worker`: keeps one worker process of the stream processors alive: `streams`, the Faust application, as a process of its own.

A worker ends by itself after any error, for its successor recovers by the code of a first start; it is started again after a pause that
grows while it fails at once. SIGTERM lets it commit what it has, within 20 s.
"""

import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from esper.errors import SettingsError
from esper.extras import require_installed
from esper.processes.child import ChildProcess

_STOP_S = 20.0


def run_worker(arguments: Sequence[str], stop: threading.Event, report: Callable[[str], None]) -> int:
    """Runs a worker with `arguments` until `stop`, and starts it again whenever it ends; its exit status, 0 where it stopped in time.

    Raises SettingsError where the stream processors are not installed.
    """
    module, folder = _module()
    worker = ChildProcess("worker", arguments, report, module=module, folder=folder, stop_s=_STOP_S)
    worker.start()
    stop.wait()
    return max(0, worker.stop())


def _module() -> tuple[str, Path | None]:
    """The module of a worker, and the folder to start it in: `streams` of a checkout, else `esper_streams`, which the wheel makes of it.

    An installation that is edited has both, and the second is as old as the installation.
    """
    require_installed("esper worker", "kafka", "faust", "aiokafka")
    checkout = Path(__file__).parents[3]
    if (checkout / "streams" / "__main__.py").exists():
        return "streams", checkout
    if find_spec("esper_streams") is not None:
        return "esper_streams", None
    raise SettingsError("expected the stream processors (esper_streams), got a distribution without them: install esper-training again")
