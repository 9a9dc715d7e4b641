"""The files of a mirror are those of the runs, whatever order and repetition; telemetry that is gone is accounted for, and nothing else."""

import shutil
from pathlib import Path
from random import Random

import pytest

from esper.errors import LogError
from esper.events.envelope import Record
from esper.events.topics import EPOCH, HEARTBEAT, SEED_HEALTH, STEPS
from esper.history.run_history import History
from esper.kafka.copying.mirrored_runs import Arrived, MirroredRuns
from esper.oona.contract import START, records_between, records_of
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE, SEAL_MARK
from esper.oona.gone import TopicEnd
from esper.oona.mirrored import MirroredRun
from tests.kafka.recorded import LAST_EPOCH, go_on, log_of, run_of, write_resumed_run
from tests.synthetic import write_run

FINISHED, RESUMED = run_of(1), run_of(2)
CUT = frozenset({STEPS, SEED_HEALTH, HEARTBEAT})


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Directory:
    """A finished run, and one that was resumed."""
    directory = Directory(tmp_path_factory.mktemp("log"))
    write_run(directory, run=FINISHED)
    write_resumed_run(directory, RESUMED)
    return directory


@pytest.fixture
def mirrored(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "mirror", create=True)


def arrivals(directory: Directory) -> dict[str, list[Arrived]]:
    """What Kafka has of both runs in one partition, by topic."""
    queues: dict[str, list[Arrived]] = {}
    for run in (FINISHED, RESUMED):
        for row, record in enumerate(log_of(directory, run), start=1):
            queue = queues.setdefault(record.topic, [])
            queue.append(Arrived(0, len(queue), row, record))
    return queues


def alike(mirrored: Directory, directory: Directory) -> bool:
    return all(log_of(mirrored, run) == log_of(directory, run) for run in (FINISHED, RESUMED))


def fill(mirrored: Directory, records: list[Arrived], *, gone: bool = True) -> MirroredRuns:
    runs = MirroredRuns(mirrored)
    runs.take(records)
    runs.pass_over(runs.waiting(0), CUT if gone else ())
    runs.close()
    return runs


def without(directory: Directory, *cut: tuple[str, int, int]) -> list[Arrived]:
    """What is left on Kafka of both runs, without the records between two sequences of a topic."""

    def gone(record: Record) -> bool:
        return any(record.topic == topic and first <= (record.sequence or 0) <= last for topic, first, last in cut)

    return [one for queue in arrivals(directory).values() for one in queue if not gone(one.record)]


@pytest.mark.parametrize("seed", range(6))
def test_any_order_repetition_and_restart_gives_the_same_files(directory: Directory, mirrored: Directory, seed: int) -> None:
    rng, queues = Random(seed), arrivals(directory)
    saved = dict.fromkeys(queues, 0)
    for life in range(5):
        runs, at = MirroredRuns(mirrored), dict(saved)
        while any(at[topic] < len(queue) for topic, queue in queues.items()):
            topic = rng.choice(sorted(queues))
            taken = queues[topic][at[topic] : at[topic] + rng.randrange(1, 30)]
            runs.take(taken)
            at[topic] += len(taken)
            if life < 4 and rng.random() < 0.02:
                break
        saved = {topic: max(0, at[topic] - rng.randrange(10)) for topic in at} | dict(runs.offsets(0))
        runs.close()
    assert alike(mirrored, directory)
    assert (mirrored.path / FINISHED / SEAL_MARK).read_text() == (directory.path / FINISHED / SEAL_MARK).read_text()


def test_telemetry_that_is_gone_is_accounted_for_and_every_reader_takes_the_rest(directory: Directory, mirrored: Directory) -> None:
    left = without(directory, (STEPS, 1, 5), (SEED_HEALTH, 1, 3))
    runs = fill(mirrored, left)
    assert runs.refused == {}
    for run in (FINISHED, RESUMED):
        with mirrored.open(run) as log, directory.open(run) as original:
            assert log.gone().ranges == ((SEED_HEALTH, 1, 3), (STEPS, 1, 5))
            assert log.gone().rows == 0
            assert log.heads().tails() == original.heads().tails()
            assert list(records_of(log, None)) == [
                one.record for one in sorted(left, key=lambda one: one.row or 0) if one.record.run == run
            ]
            assert list(records_between(log, START, log.end())) == list(records_of(log, None))
            assert History(log, run).digest() == History(original, run).digest()
    assert "8 telemetry records are gone, deleted by Kafka's retention before they were copied" in log.gone().words()


def test_a_topic_that_is_gone_to_its_end_is_known_by_the_run_s_end(directory: Directory, mirrored: Directory) -> None:
    fill(mirrored, without(directory, (STEPS, 1, 10**6)))
    with mirrored.open(FINISHED) as log, directory.open(FINISHED) as original:
        last = next(tail.sequence for tail in original.heads().tails() if tail.topic == STEPS)
        assert (log.gone().ranges, log.gone().rows) == (((STEPS, 1, last),), 0)
        assert log.heads().tails() == original.heads().tails()
    with mirrored.open(RESUMED) as log, directory.open(RESUMED) as original:
        last = next(tail.sequence for tail in original.heads().tails() if tail.topic == STEPS)
        assert (log.gone().ranges, log.gone().rows) == ((), last)
        assert log.heads().moment == original.heads().moment


def test_a_run_whose_last_telemetry_is_gone_goes_on_once_its_ends_are_known(
    directory: Directory, mirrored: Directory, tmp_path: Path
) -> None:
    fill(mirrored, without(directory, (STEPS, 3, 10**6), (HEARTBEAT, 1, 10**6)))
    with pytest.raises(LogError, match="records are gone at its end, and the numbers of the next ones are not known"):
        mirrored.resume(RESUMED)
    original = log_of(directory, RESUMED)
    last = {record.topic: record for record in original}
    ends = [TopicEnd(one.topic, one.sequence or 0, (one.chain or b"").hex(), one.epoch, one.step) for one in last.values()]
    with MirroredRun(mirrored.path / RESUMED, RESUMED, "trainer") as copy:
        copy.learn_ends(ends, len(original), original[-1].moment)
    with mirrored.open(RESUMED) as log, directory.open(RESUMED) as whole:
        assert log.gone().rows == 0
        assert log.heads().tails() == whole.heads().tails()
        assert History(log, RESUMED).folded().telemetry.records == len(log.read(limit=10**6).records)
        assert [record.sequence for record in log.read(topics=frozenset({STEPS})).records] == [1, 2]
    shutil.copytree(directory.path / RESUMED, tmp_path / RESUMED)
    both = (Directory(tmp_path), mirrored)
    for one in both:
        go_on(one, RESUMED, LAST_EPOCH + 1, resumed=False)
    places = [[(one.topic, one.sequence, one.fact, one.moment) for one in log_of(each, RESUMED) if one.epoch > LAST_EPOCH] for each in both]
    assert places[0] == places[1]
    with mirrored.open(RESUMED) as log, both[0].open(RESUMED) as whole:
        assert (log.heads().row, log.end()) == (whole.heads().row, whole.end())


def test_more_may_be_gone_when_a_mirror_goes_on_after_a_long_while(directory: Directory, mirrored: Directory) -> None:
    every = sorted(without(directory), key=lambda one: one.row or 0)
    runs = MirroredRuns(mirrored)
    runs.take(one for one in every if (one.row or 0) < 60)
    runs.close()
    left = [one for one in every if (one.row or 0) < 60 or (one.row or 0) > 120 or one.record.topic not in CUT]
    runs = fill(mirrored, left)
    assert runs.refused == {}
    with mirrored.open(FINISHED) as log, directory.open(FINISHED) as original:
        assert log.gone().count == len([one for one in every if one.record.run == FINISHED]) - len(log_of(mirrored, FINISHED))
        assert all(first > 1 for _, first, _ in log.gone().ranges)
        assert log.heads().tails() == original.heads().tails()


@pytest.mark.parametrize(
    ("cut", "gone"), [((STEPS, 1, 5), False), ((EPOCH, 2, 2), True), ((EPOCH, 1, 1), True)], ids=["telemetry", "fact", "first fact"]
)
def test_whatever_else_is_missing_refuses_the_run_and_says_why(
    directory: Directory, mirrored: Directory, cut: tuple[str, int, int], gone: bool
) -> None:
    runs = fill(mirrored, without(directory, cut), gone=gone)
    assert runs.refused.keys() == {FINISHED, RESUMED}
    assert "expected" in runs.refused[FINISHED]
    again = fill(mirrored, without(directory))
    assert again.refused == runs.refused


def test_a_row_that_comes_with_other_bytes_refuses_the_run(directory: Directory, mirrored: Directory) -> None:
    fill(mirrored, without(directory))
    one = next(one for one in without(directory) if one.record.run == RESUMED)
    forged = one._replace(record=one.record._replace(chain=bytes(32)))
    runs = fill(mirrored, [forged])
    assert "row 1: expected the record that was copied before, got another in its place" in runs.refused[RESUMED]
    assert alike(mirrored, directory)


@pytest.mark.parametrize("topic", [STEPS, EPOCH])
def test_a_copy_that_lost_more_than_is_gone_is_damaged(directory: Directory, mirrored: Directory, topic: str) -> None:
    import apsw

    fill(mirrored, without(directory, (STEPS, 1, 5)))
    connection = apsw.Connection(str(mirrored.path / RESUMED / RUN_FILE))
    connection.execute("DELETE FROM records WHERE row = (SELECT max(row) FROM records WHERE topic = ?)", (topic,))
    connection.close()
    with mirrored.open(RESUMED) as log, pytest.raises(LogError, match="cannot trust"):
        log.heads()


def test_a_run_that_this_machine_writes_is_no_copy(directory: Directory, tmp_path: Path) -> None:
    shutil.copytree(directory.path / RESUMED, tmp_path / RESUMED)
    with pytest.raises(LogError, match="it was written there: name another directory for the mirror"):
        MirroredRun(tmp_path / RESUMED, RESUMED, "trainer")


def test_a_copy_that_is_resumed_is_no_copy_any_more(directory: Directory, mirrored: Directory) -> None:
    fill(mirrored, without(directory))
    entry = mirrored.entry(RESUMED)
    assert entry is not None
    assert (entry.mirrored, entry.live) == (True, False)
    with mirrored.resume(RESUMED):
        pass
    with pytest.raises(LogError, match="it was written there"):
        MirroredRun(mirrored.path / RESUMED, RESUMED, "trainer")


def test_a_finished_run_that_was_not_sealed_is_sealed_by_the_next_mirror(directory: Directory, mirrored: Directory) -> None:
    fill(mirrored, without(directory))
    (mirrored.path / FINISHED / SEAL_MARK).unlink()
    runs = MirroredRuns(mirrored)
    runs.find_unsealed()
    runs.settle()
    runs.close()
    assert (mirrored.path / FINISHED / SEAL_MARK).read_text() == (directory.path / FINISHED / SEAL_MARK).read_text()
    fill(mirrored, without(directory))
    assert alike(mirrored, directory)
