"""`esper observe`."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Esper


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The command takes SIGINT and SIGTERM for itself, as it has a process for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_mistake_is_all_that_is_said(esper: Esper, tmp_path: Path) -> None:
    (tmp_path / "alerts.toml").write_text('off = ["run-idel"]\n')
    said = esper("observe", "--log", str(tmp_path))
    assert (said.code, said.out) == (1, "")
    assert "unknown built-in rule 'run-idel'" in said.err
