"""A task is found by its name or import path, and one that is not there is named."""

import sys
from pathlib import Path

import pytest

from esper.errors import SettingsError
from esper.processes.tasks import find_task


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digitz", r"expected a task, one of digits, mnist1d, or module:attribute; got 'digitz'"),
        ("no_such_module:task", r"task 'no_such_module:task': .*No module named 'no_such_module'"),
        ("esper.processes.tasks:nothing", r"task 'esper.processes.tasks:nothing': .*has no attribute 'nothing'"),
        ("esper.processes.tasks:adam", r"task 'esper.processes.tasks:adam': expected an esper Task, got a function"),
        (":task", r"task ':task': .*Empty module name"),
        ("..up:task", r"task '..up:task': .*relative import"),
    ],
)
def test_unknown_task_is_named(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        find_task(name)


@pytest.mark.parametrize(("source", "message"), [("raise ValueError('no GPU here')", "ValueError: no GPU here"), ("def (", "SyntaxError")])
def test_task_whose_module_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    (tmp_path / "failing_task.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing_task", raising=False)

    with pytest.raises(SettingsError, match=f"task 'failing_task:task': {message}"):
        find_task("failing_task:task")
