"""`esper observe` and `esper rebuild`."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.oona.observed import Observed
from tests.cli.conftest import Esper
from tests.synthetic import RUN, write_run


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


def test_a_state_that_is_made_again_is_the_one_that_was_saved(esper: Esper, observed_log: Path) -> None:
    said = esper("rebuild", "--log", str(observed_log), "--json")
    assert said.code == 0
    made = json.loads(said.out)
    assert (made["run"], made["same"]) == (RUN, True)
    assert "same as saved" in esper("rebuild", "latest", "--log", str(observed_log)).out


def test_a_state_that_differs_makes_the_exit_code_1_and_is_right_afterwards(esper: Esper, observed_log: Path) -> None:
    with Observed(observed_log / RUN, RUN) as observed:
        saved = observed.saved()
        parts = {name: part.replace(b'"dead_letters":0', b'"dead_letters":7') for name, part in saved.parts.items()}
        assert parts != saved.parts
        observed.save((), saved.derived_to, parts)
    said = esper("rebuild", "--log", str(observed_log))
    assert (said.code, "differs from what was saved" in said.out) == (1, True)
    assert esper("rebuild", "--log", str(observed_log)).code == 0


def test_a_log_that_nobody_observed_says_so(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path))
    said = esper("rebuild", "--log", str(tmp_path))
    assert (said.code, said.out) == (0, "nobody observed a run of this log yet\n")
    named = esper("rebuild", "latest", "--log", str(tmp_path))
    assert (named.code, "nobody observed it yet" in named.err) == (1, True)
