"""Commands that resume an interrupted run, and the names of runs that `esper demo` trains for comparison. Known without torch."""

import os
import shlex
from pathlib import Path
from typing import Literal, get_args

from esper.events.envelope import RunId

BUILT_IN_TASKS = ("digits", "mnist1d")
Variant = Literal["grown", "host", "static_same", "static_wider"]
"""A training that is compared with others of the same task."""


def variant_task(task: str, variant: Variant) -> str:
    """The task name of a run that trains a `variant` of `task`: another than the task's own, for `esper resume` would train another net."""
    return f"{task} ({variant})"


def is_resumable(task: str) -> bool:
    """True if `esper resume` can resume runs of `task`: a built-in task or one by import path, no variant."""
    return (task in BUILT_IN_TASKS or ":" in task) and not _is_variant(task)


def _is_variant(task: str) -> bool:
    return task.endswith(tuple(variant_task("", variant) for variant in get_args(Variant)))


def log_flag(path: Path | str) -> str:
    """` --log PATH`, quoted for a shell."""
    return f" --log {shlex.quote(os.fspath(path))}"


def resume_hint(run: RunId, task: str | None, log: str) -> str:
    """The command that resumes the interrupted `run`, or why there is none.

    `task` is that of RunStarted, None where there is none; `log` is empty, or the command's `--log` option after a space.
    """
    if task is None:
        return "it was interrupted before it began: start it again"
    if is_resumable(task):
        return f"esper resume {run[-6:]}{log}"
    if _is_variant(task):
        return "it was trained to be compared with another run, and does not go on alone"
    return f"it was trained by {task}: resume it there, with esper.fit(..., resume={run[-6:]!r})"
