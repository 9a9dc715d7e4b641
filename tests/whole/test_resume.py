"""A training that is killed goes on to the run that was never killed: the same facts, numbers and digests, nothing lost, nothing twice."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed
from esper.folds.run_state import Status
from esper.oona.catch_up import DivergedError
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe
from esper.processes.train import resume
from tests.folds.histories import fold
from tests.whole.kills.accounts import Faults, at_the_end, gaps, held_against, lost, missing, records_of
from tests.whole.kills.lives import Lives, lives
from tests.whole.kills.points import Kill
from tests.whole.kills.scenario import RUN, PoisonedBatches, recipe, settings
from tests.whole.kills.story import After, play

pytestmark = pytest.mark.whole

Records = tuple[Record, ...]

# The places where a resume is hardest; benchmarks/kill.py has them all, and random ones.
KILLS = (
    Kill("the log's file is made, not renamed"),
    Kill("the log is empty"),
    Kill("RunStarted is durable, no checkpoint yet"),
    Kill("telemetry is durable, the epoch goes on", 3, 3),
    Kill("CommandIssued is durable, not applied", 4, 2),
    Kill("a command took effect, no outcome", 5, 4),
    Kill("catching up", 0, 5),
    Kill("catching up", 0, 1),
    Kill("before a checkpoint's rename", 7),
    Kill("after a checkpoint's rename, before CheckpointSaved", 7),
    Kill("RunRolledBack is durable, nothing after it", 9),
    Kill("in COMMIT", 13, 2),
    Kill("RunFinished is durable, before sealing"),
)
IN_EPOCH_13 = Kill("a fact is durable, the next is not said", 13, 4)
AT_A_CHECKPOINT = Kill("CheckpointSaved is durable, nothing pruned", 15)


@pytest.fixture(scope="module")
def one() -> Iterator[Lives]:
    with lives() as found:
        yield found


@pytest.fixture(scope="module")
def whole(one: Lives, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The run that nobody kills."""
    path = tmp_path_factory.mktemp("whole") / "log"
    assert one.live(path, "train").end == "finished"
    return records_of(path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def killed(one: Lives, log: Path, kill: Kill) -> Records:
    """What the log holds after a first life that ended at `kill`."""
    assert one.live(log, "train", kill=kill).end == "killed"
    return records_of(log)


def resumed_here(log: Path, with_recipe: Recipe) -> None:
    """Goes on in the tests' own process."""
    resume(with_recipe, settings(), Directory(log), RUN)


def faults(log: Path, whole: Records) -> tuple[str, ...]:
    """What is wrong with a run that has finished, in words."""
    records = records_of(log)
    assert records[-1].type == RunFinished.KIND
    return (held_against(records, whole) + gaps(records) + at_the_end(records, whole)).words


def last_failure(log: Path) -> RunFailed:
    event = decode(records_of(log)[-1])
    assert isinstance(event, RunFailed)
    return event


def test_everything_happens_in_the_run_that_is_killed(whole: Records) -> None:
    assert missing(whole) == ()


def test_killed_at_the_hardest_points_a_run_becomes_the_one_that_was_never_killed(one: Lives, whole: Records, log: Path) -> None:
    deaths = play(one, log, whole, KILLS)
    assert len(deaths) == len(KILLS)
    assert sum((death.faults for death in deaths), Faults()).words == ()
    kinds = [record.type for record in records_of(log)]
    assert RunFailed.KIND not in kinds
    assert kinds.count(RunFinished.KIND) == 1
    assert kinds.count(RunResumed.KIND) >= 1


def test_killed_at_random_a_run_becomes_the_one_that_was_never_killed(one: Lives, whole: Records, log: Path) -> None:
    deaths = play(one, log, whole, [After(0.4), After(0.3)])
    assert sum((death.faults for death in deaths), Faults()).words == ()


def test_killed_twice_while_catching_up_nothing_has_changed(one: Lives, log: Path) -> None:
    before = killed(one, log, IN_EPOCH_13)
    for passes in (7, 2):
        assert one.live(log, "resume", kill=Kill("catching up", 0, passes)).end == "killed"
    assert records_of(log) == before


def test_a_process_that_shares_nothing_with_the_killed_one_takes_over(one: Lives, whole: Records, log: Path) -> None:
    killed(one, log, IN_EPOCH_13)
    resumed_here(log, recipe())
    assert faults(log, whole) == ()


def test_sigterm_leaves_a_run_without_an_end_that_can_be_resumed(one: Lives, whole: Records, log: Path) -> None:
    life = one.live(log, "train", signal_after_s=0.0, number=signal.SIGTERM)
    assert life.end == "interrupted"
    left = records_of(log)
    assert not {RunFailed.KIND, RunFinished.KIND} & {record.type for record in left}
    assert lost(left, life.acknowledged).words == ()
    assert one.live(log, "resume").end == "finished"
    assert faults(log, whole) == ()


def test_other_data_are_a_divergence_that_names_its_place(one: Lives, log: Path) -> None:
    killed(one, log, IN_EPOCH_13)
    with pytest.raises(DivergedError, match=r"sequence 1 .* expected data\.data\[0\]\.digest"):
        resumed_here(log, recipe(data_seed=1))
    failed = last_failure(log)
    assert (failed.kind, failed.where) == ("diverged", "topic system.events.run, sequence 1, field data.data[0].digest")


def test_other_data_are_found_even_where_no_fact_is_to_be_met_again(one: Lives, log: Path) -> None:
    killed(one, log, AT_A_CHECKPOINT)
    with pytest.raises(DivergedError, match=r"data\.data\[0\]\.digest"):
        resumed_here(log, recipe(data_seed=1))


def test_data_that_differ_where_no_fingerprint_looks_are_found_at_the_first_epoch(one: Lives, log: Path) -> None:
    killed(one, log, IN_EPOCH_13)
    changed = recipe()
    assert isinstance(changed.train, PoisonedBatches)
    changed.train.inputs[1] += 1.0  # Every second of the 640 samples is looked at.
    with pytest.raises(DivergedError, match=r"topic system\.events\.epoch, sequence 10 .*data\.digests\.optimizer"):
        resumed_here(log, changed)
    failed = last_failure(log)
    assert (failed.kind, failed.where) == ("diverged", "topic system.events.epoch, sequence 10, field data.digests.optimizer")


def test_a_run_that_failed_is_resumed_and_finishes(one: Lives, whole: Records, log: Path) -> None:
    killed(one, log, IN_EPOCH_13)
    with pytest.raises(DivergedError):
        resumed_here(log, recipe(data_seed=1))
    assert one.live(log, "resume").end == "finished"
    records = tuple(record for record in records_of(log) if record.type != RunFailed.KIND)
    assert (held_against(records, whole) + at_the_end(records, whole)).words == ()
    assert fold(records).status is Status.FINISHED


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(one: Lives, whole: Records, log: Path) -> None:
    killed(one, log, IN_EPOCH_13)
    newest = log / RUN / "checkpoints" / "epoch-000010" / "tensors.safetensors"
    sound = newest.read_bytes()
    newest.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert one.live(log, "resume").end == "finished"
    (resumed,) = [event for event in map(decode, records_of(log)) if isinstance(event, RunResumed)]
    assert resumed.checkpoint != "epoch-000010"
    assert "epoch-000010" in resumed.environment_changes[0]
    assert faults(log, whole) == ()
