"""The ways in which a task is trained to be compared, what their runs are called, and how a run that has not ended goes on.

Known without torch, for those who only look at runs.
"""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from esper.events.envelope import RunId

Way = Literal["grown", "host", "static_same", "static_wider"]
TASKS = ("digits", "mnist1d")


@dataclass(frozen=True)
class Entry:
    """One way of training: its run, the test accuracy it reached (0..1), its parameters."""

    way: Way
    run: RunId
    accuracy: float
    parameters: int


def beside(task: str, way: Way) -> str:
    """What a run of `task` trained in that way is called: not like the task's own, for `esper resume` would train another net."""
    return f"{task} ({way})"


def is_the_shells(task: str) -> bool:
    """Whether runs of `task` go on with `esper resume`: of a built-in task or one by import path, not of a net it is compared with."""
    return (task in TASKS or ":" in task) and not _is_beside(task)


def _is_beside(task: str) -> bool:
    return task.endswith(tuple(beside("", way) for way in get_args(Way)))


def log_typed(path: Path) -> str:
    """What a command about the log at `path` is typed with, after a space; a shell reads it as it is."""
    return f" --log {shlex.quote(os.fspath(path))}"


def how_to_go_on(run: RunId, task: str | None, log: str) -> str:
    """What to do about `run`, which was interrupted: a command, or why there is none.

    `task` is what RunStarted says, None where there is none; `log` is what the command has to be typed with, from a space on, or nothing.
    """
    if task is None:
        return "it was interrupted before it began: start it again"
    if is_the_shells(task):
        return f"esper resume {run[-6:]}{log}"
    if _is_beside(task):
        return "it was trained to be compared with another run, and does not go on alone"
    return f"it was trained by {task}: resume it there, with esper.fit(..., resume={run[-6:]!r})"
