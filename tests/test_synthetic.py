"""The synthetic run keeps to the rules that a real one is bound by: it goes through the real gate, and the folds find it regular."""

from pathlib import Path

from esper.events.kinds.control import DecisionRefused
from esper.events.kinds.lifecycle import Stage
from esper.events.topics import OUTCOMES
from esper.history.run_history import History, open_run
from esper.oona.directory import Directory
from tests.synthetic import FIRST, RUN, SECOND, write_run


def test_every_chain_and_number_of_the_run_is_right(synthetic_log: Path) -> None:
    with Directory(synthetic_log).open(RUN) as log:
        assert log.heads().moment == 233


def test_the_gate_itself_refuses_what_the_run_is_to_be_refused(history: History) -> None:
    refused = [event.rule for _, event in history.events(OUTCOMES) if isinstance(event, DecisionRefused)]
    assert refused == ["urgency", "cap", "finite"]


def test_the_run_ends_with_every_kind_of_life(history: History) -> None:
    stages = {(row.site, row.seed): row.stage for row in history.state.seeds}
    assert stages[SECOND, 0] is Stage.FOSSILIZED
    assert stages[FIRST, 0] is Stage.ROLLED_BACK
    assert stages[FIRST, 2] is Stage.CANCELLED
    assert stages[FIRST, 3] is Stage.TRAINING


def test_samples_are_dropped_by_the_emitter_s_own_rule(history: History) -> None:
    assert dict(history.state.dropped) == {"telemetry.training.steps": 3}


def test_the_folds_find_the_run_regular(history: History) -> None:
    assert history.state.irregularities == ()


def test_two_runs_written_alike_have_equal_states(tmp_path: Path, history: History) -> None:
    write_run(Directory(tmp_path))
    with open_run("latest", tmp_path) as again:
        assert again.digest() == history.digest()
