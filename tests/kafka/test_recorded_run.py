"""Recorded runs go through a real broker, badly, and come back equal: record by record, and as the state that their facts fold to."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

import pytest

from esper.events import topics
from esper.events.digests import chain
from esper.events.envelope import Record, RunId
from esper.events.kinds.run import RunResumed
from esper.oona.directory import Directory
from tests.folds.readers import Missing, Reader, local_digests
from tests.kafka.delivery import Queues, forward, interleaved, queues_of, stopped_and_started
from tests.kafka.recorded import log_of, run_of, write_resumed_run
from tests.kafka.wire import Message, Wire
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

FINISHED, RESUMED, LATE = run_of(1), run_of(2), run_of(3)
SEEDS = range(24)


@dataclass(frozen=True, repr=False)
class Trip:
    """Recorded runs, and what a broker gives back of them.

    `digests` are those of the logs themselves, after every epoch and at the end. `lost` were only ever sent in transactions that were
    aborted, `late` came behind everything else.
    """

    directory: Directory
    logs: dict[RunId, tuple[Record, ...]]
    digests: dict[RunId, list[str]]
    lost: tuple[Record, ...]
    late: Record
    wire: Wire
    messages: list[Message]

    @property
    def queues(self) -> Queues:
        return queues_of(self.messages)

    @property
    def gaps(self) -> list[Missing]:
        """One for each record that did not come in its place."""
        return sorted(hole_at(record) for record in (*self.lost, self.late))

    def records(self, messages: Iterable[Message]) -> Iterator[Record]:
        return map(self.wire.record, messages)

    def of(self, run: RunId, messages: Iterable[Message]) -> list[Record]:
        return [record for record in self.records(messages) if record.run == run]

    def reread(self, run: RunId, topic: str, first: int, last: int) -> list[Record]:
        """Reads the local log."""
        return within(log_of(self.directory, run, topic), first, last)


def hole_at(record: Record) -> Missing:
    assert record.sequence is not None
    return Missing(record.run, record.topic, record.sequence, record.sequence)


def within(records: Iterable[Record], first: int, last: int) -> list[Record]:
    return [record for record in records if record.sequence in range(first, last + 1)]


def place(records: Iterable[Record], topic: str, sequence: int) -> Record:
    return next(record for record in records if (record.topic, record.sequence) == (topic, sequence))


@pytest.fixture(scope="module")
def trip(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Trip:
    directory = Directory(tmp_path_factory.mktemp("log"))
    write_run(directory, run=FINISHED)
    write_resumed_run(directory, RESUMED)
    write_run(directory, run=LATE)
    logs = {run: log_of(directory, run) for run in (FINISHED, RESUMED, LATE)}
    digests = {run: local_digests(log) for run, log in logs.items()}
    resumption = next(record for record in logs[RESUMED] if record.type == RunResumed.KIND)
    lost = (place(logs[FINISHED], topics.LIFECYCLE, 9), place(logs[FINISHED], topics.STEPS, 12), resumption)
    late = place(logs[LATE], topics.DECISIONS, 7)

    async def travel() -> Trip:
        wire = await Wire.lay(kafka, {record.topic for records in logs.values() for record in records})
        await forward(wire, logs, Random(1), lost=frozenset(record.id for record in lost), late=frozenset({late.id}))
        return Trip(directory, logs, digests, lost, late, wire, await wire.read())

    return asyncio.run(travel())


def test_every_topic_of_a_recorded_run_is_on_the_wire(trip: Trip) -> None:
    facts = {topics.RUN, topics.EPOCH, topics.LIFECYCLE, topics.DECISIONS, topics.COMMANDS, topics.OUTCOMES}
    assert facts | {topics.STEPS, topics.SEED_HEALTH, topics.HEARTBEAT} <= {record.topic for record in trip.records(trip.messages)}


def test_a_run_is_on_one_partition_of_every_topic_with_another_run_beside_it(trip: Trip) -> None:
    places = {(message.key, message.partition) for message in trip.messages}
    assert len(places) == len(trip.logs)
    assert sorted(Counter(partition for _, partition in places).values()) == [1, 2]


def test_records_come_back_with_their_bytes_and_every_field(trip: Trip) -> None:
    local = {record.id: record for records in trip.logs.values() for record in records}
    came = list(trip.records(trip.messages))
    assert came == [local[record.id] for record in came]
    assert [message.value for message in trip.messages] == [record.data for record in came]
    assert [message.key for message in trip.messages] == [record.run.encode() for record in came]
    assert {record.id for record in came} == local.keys() - {record.id for record in trip.lost}


def test_what_the_records_carry_is_everything_that_a_writer_s_record_can(trip: Trip) -> None:
    came = list(trip.records(trip.messages))
    assert {record.incarnation for record in came} == {1, 2}
    assert any(record.trace for record in came)
    assert any(record.cause is None for record in came)
    assert any(record.id == f"{RESUMED}/heartbeat/1" for record in came)


def test_chains_can_be_made_again_from_what_came(trip: Trip) -> None:
    reader = Reader(trip.reread).take_all(trip.records(trip.messages))
    heads: dict[tuple[RunId, str], bytes] = {}
    for record in reader.applied:
        key = (record.run, record.topic)
        heads[key] = chain(record, heads.get(key, b""))
        assert record.chain == heads[key]


def test_the_bridge_sent_batches_twice_and_aborted_others(trip: Trip) -> None:
    every = asyncio.run(trip.wire.read("read_uncommitted"))
    times = Counter(record.id for record in trip.records(trip.messages))
    assert sum(count > 1 for count in times.values()) > 200
    assert len(every) > len(trip.messages) + 100


def test_what_was_only_sent_in_an_aborted_transaction_is_on_the_broker_and_not_read(trip: Trip) -> None:
    every = {record.id for record in trip.records(asyncio.run(trip.wire.read("read_uncommitted")))}
    committed = {record.id for record in trip.records(trip.messages)}
    assert {record.id for record in trip.lost} <= every - committed


def test_topics_come_interleaved_otherwise_than_they_were_written(trip: Trip) -> None:
    first_seen = dict.fromkeys(record.id for record in trip.records(trip.messages) if record.run == FINISHED)
    written = [record.id for record in trip.logs[FINISHED] if record.id in first_seen]
    assert list(first_seen) != written


def test_runs_read_as_the_consumer_hands_them_out_come_to_the_states_of_their_logs(trip: Trip) -> None:
    reader = Reader(trip.reread).take_all(trip.records(trip.messages))
    assert {run: reader.digests(run) for run in trip.logs} == trip.digests


@pytest.mark.parametrize("seed", SEEDS)
def test_any_order_of_partitions_comes_to_the_states_of_the_logs_after_every_epoch(trip: Trip, seed: int) -> None:
    reader = Reader(trip.reread).take_all(trip.records(interleaved(trip.queues, Random(seed))))
    assert {run: reader.digests(run) for run in trip.logs} == trip.digests
    assert sorted(reader.gaps) == trip.gaps
    assert not reader.conflicts


@pytest.mark.parametrize("seed", SEEDS)
def test_a_reader_that_starts_again_from_earlier_offsets_comes_to_the_same_states(trip: Trip, seed: int) -> None:
    before, after = stopped_and_started(trip.queues, Random(seed))
    first = Reader(trip.reread).take_all(trip.records(before))
    second = first.going_on().take_all(trip.records(after))
    both = {run: [*first.epoch_digests(run), *second.digests(run)] for run in trip.logs}
    assert both == trip.digests
    assert sorted(first.gaps + second.gaps) == trip.gaps
    assert not first.conflicts + second.conflicts


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_every_record_is_applied_once_and_each_topic_in_order(trip: Trip, seed: int) -> None:
    reader = Reader(trip.reread).take_all(trip.records(interleaved(trip.queues, Random(seed))))
    for run, log in trip.logs.items():
        for topic in {record.topic for record in log}:
            assert [one for one in reader.applied if (one.run, one.topic) == (run, topic)] == [one for one in log if one.topic == topic]


@pytest.mark.parametrize("seed", SEEDS[:6])
@pytest.mark.parametrize(("run", "lost"), [(FINISHED, 0), (RESUMED, 2)])
def test_a_fact_that_is_nowhere_blocks_its_run_there(trip: Trip, run: RunId, lost: int, seed: int) -> None:
    fact = trip.lost[lost]
    reader = Reader().take_all(trip.of(run, interleaved(trip.queues, Random(seed))))
    assert reader.blocked == [hole_at(fact)]
    assert reader.merges[run].following == fact.fact
    assert reader.digests(run) == local_digests(record for record in trip.logs[run] if record.moment < fact.moment)


def test_a_blocked_run_goes_on_from_where_it_stopped_once_its_log_is_at_hand(trip: Trip) -> None:
    blocked = Reader().take_all(trip.of(FINISHED, trip.messages))
    later = blocked.going_on()
    later.reread = trip.reread
    later.fill(blocked.blocked[0])
    later.take_all(trip.of(FINISHED, trip.messages))
    assert [*blocked.epoch_digests(FINISHED), *later.digests(FINISHED)] == trip.digests[FINISHED]
    assert later.gaps == []


def test_telemetry_that_is_nowhere_is_passed_over_and_counted(trip: Trip) -> None:
    sample = trip.lost[1]
    reader = Reader().take_all(trip.of(FINISHED, trip.messages))
    steps = [record for record in trip.logs[FINISHED] if record.topic == topics.STEPS and record != sample]
    assert [record for record in reader.applied if record.topic == topics.STEPS] == steps
    assert reader.skipped == {(FINISHED, topics.STEPS): 1}


def test_a_fact_that_came_late_is_found_by_reading_its_topic_again(trip: Trip) -> None:
    def from_the_broker(run: RunId, topic: str, first: int, last: int) -> list[Record]:
        again = trip.of(run, asyncio.run(trip.wire.read()))
        return within((record for record in again if record.topic == topic), first, last)

    reader = Reader(from_the_broker).take_all(trip.of(LATE, trip.messages))
    assert reader.gaps == [hole_at(trip.late)]
    assert reader.blocked == []
    assert reader.digests(LATE) == trip.digests[LATE]


def test_a_fact_missing_at_its_topic_s_front_is_a_hole_and_not_expired(trip: Trip) -> None:
    first = place(trip.logs[LATE], topics.EPOCH, 1)
    reader = Reader(trip.reread).take_all(record for record in trip.of(LATE, trip.messages) if record != first)
    assert sorted(reader.gaps) == sorted([hole_at(first), hole_at(trip.late)])
    assert not reader.expired
    assert reader.digests(LATE) == trip.digests[LATE]


def test_a_fact_missing_at_its_topic_s_end_shows_as_what_the_later_facts_wait_for(trip: Trip) -> None:
    last = next(record for record in reversed(trip.logs[FINISHED]) if record.topic == topics.FIELD_REPORTS)
    reader = Reader(trip.reread).take_all(record for record in trip.of(FINISHED, trip.messages) if record != last)
    assert reader.merges[FINISHED].missing == (last.fact, last.fact)
    reader.take(last)
    assert reader.digests(FINISHED) == trip.digests[FINISHED]


def test_a_record_sent_again_with_other_bytes_is_a_conflict_and_changes_nothing(trip: Trip, kafka: str) -> None:
    log = trip.logs[FINISHED]
    last = {record.topic: record for record in log}.values()
    forged = [record._replace(data=record.data.replace(b"{", b'{"forged":1,', 1)) for record in last]

    async def travel() -> list[Record]:
        wire = await Wire.lay(kafka, {record.topic for record in log})
        await wire.commit(log, forged)
        return [wire.record(message) for message in await wire.read()]

    reader = Reader().take_all(asyncio.run(travel()))
    assert sorted(drop.detail for drop in reader.conflicts) == sorted(
        f"run {record.run}, topic {record.topic}, sequence {record.sequence}: written before with other bytes" for record in forged
    )
    assert reader.digests(FINISHED) == trip.digests[FINISHED]


def test_telemetry_whose_front_retention_has_cut_starts_there_and_is_counted(trip: Trip, kafka: str) -> None:
    log = [record for record in trip.logs[FINISHED] if record.topic == topics.STEPS]

    async def travel() -> list[Record]:
        wire = await Wire.lay(kafka, {topics.STEPS})
        await wire.commit(log)
        await wire.cut_before(next(message for message in await wire.read() if wire.record(message).sequence == 10))
        return [wire.record(message) for message in await wire.read()]

    reader = Reader().take_all(asyncio.run(travel()))
    assert reader.expired == {(FINISHED, topics.STEPS): 9}
    assert reader.applied == log[9:]
