"""`esper rebuild`."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.oona.observed import Observed
from esper.processes.observer import Observer
from tests.cli.conftest import Esper
from tests.processes.observed_runs import NOW, SETTINGS, problems
from tests.synthetic import RUN, write_run


@pytest.fixture
def observed_log(tmp_path: Path) -> Path:
    """A log whose run is under way, observed as far as it got."""
    write_run(Directory(tmp_path), finish=False)
    with Observer(Directory(tmp_path), SETTINGS, now=lambda: NOW + timedelta(seconds=1), report=problems.append) as observer:
        observer.turn(0.0)
    return tmp_path


def test_a_state_that_is_made_again_is_the_one_that_was_saved(esper: Esper, observed_log: Path) -> None:
    said = esper("rebuild", "--log", str(observed_log), "--json")
    assert said.code == 0
    made = json.loads(said.out)
    assert (made["run"], made["same"]) == (RUN, True)
    assert "same as saved" in esper("rebuild", "latest", "--log", str(observed_log)).out


def test_a_state_that_differs_makes_the_exit_code_1_and_is_right_afterwards(esper: Esper, observed_log: Path) -> None:
    with Observed(observed_log / RUN, RUN) as observed:
        saved = observed.saved()
        assert saved.state is not None
        observed.save((), saved.derived_to, saved.state.replace(b'"dead_letters":0', b'"dead_letters":7'))
    said = esper("rebuild", "--log", str(observed_log))
    assert (said.code, "differs from what was saved" in said.out) == (1, True)
    assert esper("rebuild", "--log", str(observed_log)).code == 0


def test_a_log_that_nobody_observed_says_so(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path))
    said = esper("rebuild", "--log", str(tmp_path))
    assert (said.code, said.out) == (0, "nobody observed a run of this log yet\n")
    named = esper("rebuild", "latest", "--log", str(tmp_path))
    assert (named.code, "nobody observed it yet" in named.err) == (1, True)
