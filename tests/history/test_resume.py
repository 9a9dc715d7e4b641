"""What runs of a task are called, and how one that was interrupted goes on."""

from pathlib import Path

import pytest

from esper.demo import tasks
from esper.events.envelope import RunId
from esper.history.resume import BUILT_IN_TASKS, is_resumable, log_flag, resume_hint, variant_task

RUN = RunId("019ca945-0a00-7000-8000-0000007c21ab")


def test_every_built_in_task_is_known_without_torch() -> None:
    assert set(BUILT_IN_TASKS) == set(tasks.TASKS)


@pytest.mark.parametrize(
    ("task", "onward"),
    [
        ("digits", "esper resume 7c21ab --log runs"),
        ("mine:task", "esper resume 7c21ab --log runs"),
        ("mine.py", "it was trained by mine.py: resume it there, with esper.fit(..., resume='7c21ab')"),
        (variant_task("digits", "host"), "it was trained to be compared with another run, and does not go on alone"),
        (variant_task("mine:task", "static_wider"), "it was trained to be compared with another run, and does not go on alone"),
        (None, "it was interrupted before it began: start it again"),
    ],
)
def test_an_interrupted_run_goes_on_by_what_trained_it(task: str | None, onward: str) -> None:
    assert resume_hint(RUN, task, " --log runs") == onward


def test_a_log_whose_name_a_shell_would_take_apart_is_quoted() -> None:
    assert log_flag(Path("my runs")) == " --log 'my runs'"


def test_only_the_shell_s_own_runs_are_its_to_resume() -> None:
    assert [is_resumable(task) for task in ("digits", "mine:task", "mine.py", "digits (host)", "mine:task (host)")] == [
        True, True, False, False, False,
    ]  # fmt: skip
