"""The checks of real trainings: one that grew breaks nothing, and one that went wrong breaks what it should."""

import pytest

from esper.audit.compliance.running import Verdict
from esper.events.kinds.run import RunResumed
from esper.oona.directory import Directory
from esper.processes.train import fresh_run_id, resume, train
from tests.audit.compliance.asking import ask, named
from tests.recipes import Acting, BurstError, burst, events, recipe, settings
from tests.whole.conftest import Faulty, Grown

pytestmark = pytest.mark.whole
NEVER = 0
UNOBSERVED = {"alert.complete", "alert.handled"}


def test_a_training_that_grew_breaks_nothing(grown: Grown) -> None:
    results = ask(grown.told.directory, grown.told.run)
    assert named(results, Verdict.FAIL) == set()
    assert named(results, Verdict.INCONCLUSIVE) == UNOBSERVED  # Nobody observes the runs of tests.


def test_a_training_that_went_back_without_an_observer_told_nobody(faulty: Faulty) -> None:
    results = ask(faulty.told.directory, faulty.told.run)
    assert named(results, Verdict.FAIL) == {"alert.complete", "run.manifest_complete"}  # Batches that a test makes have no digest.
    assert [one.what for one in results["alert.complete"].shown] == ["loss is nan: expected an alert, got none"] * 2


def test_a_training_that_failed_and_was_resumed_lacks_nothing_but_a_digest_of_its_data(directory: Directory) -> None:
    run = fresh_run_id()
    with pytest.raises(BurstError):
        train(recipe(Acting(9, burst)), settings(), directory, run)
    resume(recipe(Acting(NEVER, burst)), settings(), directory, run)
    results = ask(directory, run)
    assert named(results, Verdict.FAIL) == {"run.manifest_complete"}
    assert [one.what for one in results["run.manifest_complete"].shown] == ["data set train: expected a digest, got none"]
    assert results["log.tail"].population > len(events(directory, run, RunResumed)) == 1
