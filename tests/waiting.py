"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable

WITHIN_S = 180.0
"""Far longer than anything takes on a loaded machine: it ends a test that hangs, and measures nothing."""


def until(holds: Callable[[], object], expected: str = "it did not happen in time") -> None:
    """Returns when `holds`; fails after three minutes."""
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline, expected
        time.sleep(0.05)
