"""The laws of a cell: however records come, and whenever it is saved, the derived records are the same, to the ids."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError, RuleError
from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.observability import AnomalyDetected, FoldBlocked
from esper.folds.gaps_and_duplicates import Drop, Gap, Reason
from esper.folds.monitoring.cell import Applied, Blocked, Cell, advance, block, from_bytes, skip, to_bytes
from tests.folds.histories import completed
from tests.folds.monitoring.streams import RULES, SETTINGS, Host, TimedWriter, histories, losses, spoken, watching
from tests.folds.readers import Repeat, interleaved, repeated


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[list[Record], list[Record]]:
    """A history, and one way in which it comes: topics in any order, and stretches sent again."""
    records = draw(histories())
    order = draw(st.permutations(range(len(records))))
    repeats: list[Repeat] = draw(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 9)), max_size=3))
    return records, repeated(interleaved(records, order), repeats)


def forms(host: Host) -> dict[str, str]:
    """The cells of a host as text: NaN equals NaN there."""
    return {topic: to_bytes(cell).decode() for topic, cell in host.cells.items()}


def by_id(host: Host) -> list[Record]:
    """What a host derived, in an order that does not depend on how it came."""
    return sorted(host.derived, key=lambda record: record.id)


@given(arrivals())
def test_any_interleaving_of_topics_and_any_repetition_derives_the_same_records(arrival: tuple[list[Record], list[Record]]) -> None:
    records, delivery = arrival
    assert by_id(Host(SETTINGS).take_all(delivery)) == by_id(Host(SETTINGS).take_all(records))


@given(histories())
def test_a_state_that_is_saved_and_loaded_at_every_record_derives_the_same_records(records: list[Record]) -> None:
    straight, saving = Host(SETTINGS).take_all(records), Host(SETTINGS, saving=True).take_all(records)
    assert saving.derived == straight.derived
    assert forms(saving) == forms(straight)


@given(histories())
def test_no_id_is_derived_twice(records: list[Record]) -> None:
    ids = [record.id for record in Host(SETTINGS).take_all(records).derived]
    assert len(set(ids)) == len(ids)


@given(histories())
def test_a_step_never_changes_the_state_before_it(records: list[Record]) -> None:
    host = Host(SETTINGS)
    for record in records:
        cells, before = dict(host.cells), forms(host)
        host.take(record)
        assert forms(Host(SETTINGS, cells=cells)) == before


@given(histories(), st.lists(st.integers(0, 30), max_size=5))
def test_any_grouping_into_batches_between_which_cells_are_saved_derives_the_same_records(records: list[Record], cuts: list[int]) -> None:
    straight, batched = Host(SETTINGS).take_all(records), Host(SETTINGS)
    edges = sorted({0, *(cut for cut in cuts if cut < len(records)), len(records)})
    for first, last in pairwise(edges):
        batched.take_all(records[first:last])
        batched.cells = {topic: from_bytes(to_bytes(cell)) for topic, cell in batched.cells.items()}
    assert batched.derived == straight.derived
    assert forms(batched) == forms(straight)


@given(histories(), st.data())
def test_a_host_that_goes_on_from_older_cells_derives_nothing_new(records: list[Record], data: st.DataObject) -> None:
    saved_at, killed_at = sorted(data.draw(st.tuples(*(st.integers(0, len(records)),) * 2)))
    host = Host(SETTINGS).take_all(records[:saved_at])
    older = dict(host.cells)
    host.take_all(records[saved_at:killed_at])
    after = Host(SETTINGS, cells=older).take_all(records[saved_at:])
    straight = Host(SETTINGS).take_all(records)
    assert {record.id for record in host.derived} | {record.id for record in after.derived} == {record.id for record in straight.derived}
    assert forms(after) == forms(straight)


@given(histories(), st.data())
def test_a_gap_that_is_healed_by_reading_again_leaves_no_trace(records: list[Record], data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.integers(0, len(records) - 1), max_size=8))
    straight, host = Host(SETTINGS).take_all(records), Host(SETTINGS)
    # A telemetry topic whose first records were never read begins where it can be read: that is no gap.
    first = {record.topic: place for place, record in reversed(list(enumerate(records)))}
    for record in (record for place, record in enumerate(records) if place not in lost or place in first.values()):
        if isinstance(outcome := host.take(record), Gap):
            missing = [one for one in records if one.topic == record.topic and (one.sequence or 0) >= outcome.from_]
            host.take_all(missing)
    for topic in host.cells:  # What was lost at a topic's end shows with the records after it.
        host.take_all(record for record in records if record.topic == topic)
    assert by_id(host) == by_id(straight)
    assert forms(host) == forms(straight)


def test_an_alert_about_a_value_that_is_no_number_is_saved_as_it_is() -> None:
    rules = RULES + f'[[rule]]\nname = "nan"\ntopic = "{topics.STEPS}"\nmetric = "loss"\nnot_finite = true\nseverity = "critical"\n'
    host = Host(watching(rules)).take_all(spoken(TimedWriter(), [(0.0, losses(math.nan))]))
    (alert,) = from_bytes(to_bytes(host.cells[topics.STEPS])).state.alerts.active["nan"]
    assert alert.value is not None
    assert math.isnan(alert.value)


@given(histories())
def test_ids_do_not_depend_on_the_one_that_derives(records: list[Record]) -> None:
    one, other = Host(SETTINGS).take_all(records), Host(SETTINGS, writer="worker").take_all(records)
    assert [record.id for record in one.derived] == [record.id for record in other.derived]
    assert {record.writer for record in other.derived} <= {"worker"}


def unreadable(record: Record) -> Record:
    """The record with a payload that no version could decode."""
    return record._replace(data=b"{}")


def epochs(count: int) -> list[Record]:
    return spoken(TimedWriter(), [(float(second), completed(second + 1, loss=3.0)) for second in range(count)])


def test_a_record_of_another_topic_is_refused_with_both_names() -> None:
    record = TimedWriter().at(0, losses(1.0))
    with pytest.raises(RuleError, match=r"expected records of topic system.events.epoch, got esper.steps.measured.v1 of topic telemetry"):
        advance(Cell(topics.EPOCH), record, SETTINGS, "observer")


@pytest.mark.parametrize("saved", [b"", b"3", b"[]", b"[{}]", b'[2, {"topic": "x", "more": 1}]', b'[{"topic": "x"}]'])
def test_what_is_no_saved_cell_is_refused(saved: bytes) -> None:
    with pytest.raises(DataError, match="expected a saved cell"):
        from_bytes(saved)


def test_a_fact_that_cannot_be_decoded_blocks_its_topic_and_is_recorded_once() -> None:
    first, second, third = epochs(3)
    host = Host(SETTINGS).take_all([first, unreadable(second)])
    assert isinstance(host.take(unreadable(second)), Blocked)
    behind = host.take(third)
    assert isinstance(behind, Drop)
    assert behind.reason is Reason.BLOCKED
    (said,) = [event for event in map(decode, host.derived) if isinstance(event, FoldBlocked)]
    assert (said.topic, said.sequence) == (topics.EPOCH, 2)


@given(st.booleans())
def test_a_blocked_topic_goes_on_once_its_fact_is_understood(saving: bool) -> None:
    records = epochs(3)
    host = Host(SETTINGS, saving=saving).take_all([records[0], unreadable(records[1]), records[2]])
    healed = Host(SETTINGS, cells=dict(host.cells)).take_all(records).derived
    straight = Host(SETTINGS).take_all(records).derived
    assert {one.id for one in healed} | {one.id for one in host.derived if one.topic != topics.OBSERVERS} == {one.id for one in straight}


def test_a_conflict_blocks_and_is_over_when_the_record_itself_comes() -> None:
    first, second = epochs(2)
    host = Host(SETTINGS).take_all([first])
    assert isinstance(host.take(first._replace(data=second.data)), Blocked)
    assert isinstance(host.take(second), Drop)
    assert isinstance(host.take(first), Drop)
    assert isinstance(host.take(second), Applied)


def test_telemetry_that_cannot_be_decoded_is_set_aside_with_its_bytes_and_its_topic_goes_on() -> None:
    writer = TimedWriter()
    first, second = spoken(writer, [(0.0, losses(1.0)), (1.0, losses(1.0))])
    host = Host(SETTINGS)
    outcome = host.take(unreadable(first))
    assert isinstance(outcome, Applied)
    assert outcome.event is None
    (letter,) = outcome.derived
    assert (letter.topic, letter.data, letter.cause) == (topics.STEPS + ".dead-letter", b"{}", first.id)
    assert isinstance(host.take(second), Applied)
    assert host.cells[topics.STEPS].dead_letters == 1


def test_skipped_telemetry_is_counted_in_an_anomaly_and_a_missing_fact_is_never_skipped() -> None:
    records = spoken(TimedWriter(), [(float(second), losses(1.0)) for second in range(5)])
    host = Host(SETTINGS).take_all(records[:1])
    assert isinstance(gap := host.take(records[4]), Gap)
    assert (gap.from_, gap.to) == (2, 4)
    host.cells[topics.STEPS] = skip(host.cells[topics.STEPS])
    host.take(records[4])
    (lost,) = [event for event in map(decode, host.derived) if isinstance(event, AnomalyDetected)]
    assert (lost.detector, lost.value) == ("missing", 3.0)
    facts = Host(SETTINGS).take_all([epochs(3)[0], epochs(3)[2]])
    with pytest.raises(RuleError, match="a missing fact blocks the run"):
        skip(facts.cells[topics.EPOCH])


def test_a_missing_fact_that_is_found_after_all_heals_its_topic() -> None:
    records = epochs(4)
    host = Host(SETTINGS).take_all([records[0], records[2]])
    host.cells[topics.EPOCH], _ = block(host.cells[topics.EPOCH], records[2], "sequences 2 to 2 are missing", "observer")
    assert isinstance(host.take(records[3]), Drop)
    host.take_all(records)
    assert host.cells[topics.EPOCH].blocked is None
    assert forms(host) == forms(Host(SETTINGS).take_all(records))
