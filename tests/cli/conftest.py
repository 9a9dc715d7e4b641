"""A way to type a command and see what comes, with the synthetic run in the log."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import RenderableType

from esper.cli.main import main
from esper.cli.output import Output
from esper.observer.observing import Observer
from esper.oona.directory import Directory
from tests.observer.observed_runs import NOW, SETTINGS, problems
from tests.synthetic import write_run


class Terminal(StringIO):
    """A file that claims to be a terminal."""

    def isatty(self) -> bool:
        """True."""
        return True


def rendered(*renderables: RenderableType, width: int = 100) -> list[str]:
    """The lines that renderables have in a pipe of `width` columns."""
    file = StringIO()
    out = Output(file)
    out.console.width = out.width = width
    out.print(*renderables)
    return file.getvalue().splitlines()


class Said(NamedTuple):
    """What a command wrote, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard output, line by line."""
        return self.out.splitlines()


Esper = Callable[..., Said]


@pytest.fixture
def esper(synthetic_log: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Esper:
    """Types `esper ARGUMENTS...` with the synthetic log as the environment's."""
    monkeypatch.setenv("ESPER_LOG", str(synthetic_log))
    monkeypatch.delenv("COLUMNS", raising=False)

    def typed(*arguments: str) -> Said:
        try:
            code = main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return typed


@pytest.fixture
def observed_log(tmp_path: Path) -> Path:
    """A log whose run is under way, observed as far as it got."""
    write_run(Directory(tmp_path), finish=False)
    with Observer(Directory(tmp_path), SETTINGS, now=lambda: NOW + timedelta(seconds=1), report=problems.append) as observer:
        observer.turn(0.0)
    return tmp_path
