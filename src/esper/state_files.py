"""State files: what a process that joins a log with Kafka is doing, rewritten every second beside the log, for people and programs."""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.durable import replace_file

BRIDGE_STATE, MIRROR_STATE, DELIVERY_STATE = "bridge.json", "mirror.json", "delivery.json"


def write_state(path: Path, cluster: str, state: Mapping[str, object]) -> None:
    """Writes `state` of this process, with its pid, the time and the cluster. A full disk keeps no process from its work."""
    written = {"kafka": cluster, "pid": os.getpid(), "time": time.time(), **state}
    with suppress(OSError):
        replace_file(path, f"{json.dumps(written)}\n".encode())


def read_state(path: Path) -> dict[str, Any]:  # Any: JSON that a process of this version wrote.
    """The state that stands in the file at `path`; empty where none can be read."""
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
