"""A training that is killed goes on to the run that was never killed: the same facts, numbers and digests, nothing lost, nothing twice."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from esper.events.envelope import Record
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed
from tests.whole.kills.accounts import Faults, records_of
from tests.whole.kills.lives import Lives, lives
from tests.whole.kills.points import Kill
from tests.whole.kills.story import After, play

pytestmark = pytest.mark.whole

# The places where a resume is hardest; benchmarks/kill.py has them all, and random ones.
KILLS = (
    Kill("RunStarted is durable, no checkpoint yet"),
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


@pytest.fixture(scope="module")
def one() -> Iterator[Lives]:
    with lives() as found:
        yield found


@pytest.fixture(scope="module")
def whole(one: Lives, tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    """The run that nobody kills."""
    path = tmp_path_factory.mktemp("whole") / "log"
    assert one.live(path, "train").end == "finished"
    return records_of(path)


def test_kills_at_the_hardest_points_leave_the_run_that_was_never_killed(one: Lives, whole: tuple[Record, ...], tmp_path: Path) -> None:
    deaths = play(one, tmp_path / "log", whole, KILLS)
    assert len(deaths) == len(KILLS)
    assert sum((death.faults for death in deaths), Faults()).words == ()
    kinds = [record.type for record in records_of(tmp_path / "log")]
    assert RunFailed.KIND not in kinds
    assert kinds.count(RunFinished.KIND) == 1
    assert kinds.count(RunResumed.KIND) >= 1


def test_a_run_killed_twice_at_random_goes_on_just_the_same(one: Lives, whole: tuple[Record, ...], tmp_path: Path) -> None:
    deaths = play(one, tmp_path / "log", whole, [After(0.4), After(0.3)])
    assert list(chain.from_iterable(death.faults.words for death in deaths)) == []


def test_the_story_that_is_killed_has_what_makes_resuming_hard(whole: tuple[Record, ...]) -> None:
    kinds = [record.type for record in whole]
    for kind in ("esper.run.rolled-back.v1", "esper.checkpoint.pruned.v1", "esper.field.reported.v1"):
        assert kind in kinds
    assert max(record.epoch for record in whole) >= 30
