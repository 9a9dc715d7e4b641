"""However the topics of a run arrive, admission, merging and folding come to the same."""

from typing import NamedTuple

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from esper.events import topics
from esper.events.digests import derived_id
from esper.events.envelope import Record
from esper.folds.run_state import RunState, digest, step
from tests.folds.histories import RUN, fold, training
from tests.folds.readers import Reader, Repeat, from_log, interleaved, repeated

HISTORIES = st.lists(st.integers(0, 20), min_size=1, max_size=7).map(training)
REPEATS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(1, 12)), max_size=4)


class Arrival(NamedTuple):
    """A history, an order of its topics, and what is sent again."""

    records: list[Record]
    order: list[int]
    repeats: list[Repeat]

    @property
    def delivery(self) -> list[Record]:
        return repeated(interleaved(self.records, self.order), self.repeats)


ARRIVALS = HISTORIES.flatmap(lambda records: st.builds(Arrival, st.just(records), st.permutations(range(len(records))), REPEATS))


def reader_of(arrival: Arrival) -> Reader:
    """A reader that has seen nothing, of a log that it can read again."""
    return Reader(from_log(arrival.records))


def derived_ids(reader: Reader) -> list[str]:
    """The ids of what a rule would have derived, one from each record that was applied."""
    return sorted(derived_id(record.id, "rule", 1, "0" * 8, 0) for record in reader.applied)


@given(ARRIVALS)
def test_any_interleaving_and_repetition_gives_the_same_state_and_the_same_derived_ids(arrival: Arrival) -> None:
    straight = reader_of(arrival).take_all(arrival.records)
    reader = reader_of(arrival).take_all(arrival.delivery)
    assert reader.states == straight.states
    assert digest(reader.states[RUN]) == digest(fold(arrival.records))
    assert derived_ids(reader) == derived_ids(straight)
    assert reader.admissions == straight.admissions


@given(ARRIVALS)
def test_no_sequence_is_applied_twice_and_each_topic_is_applied_in_order(arrival: Arrival) -> None:
    reader = reader_of(arrival).take_all(arrival.delivery)
    assert sorted(record.id for record in reader.applied) == sorted(record.id for record in arrival.records)
    for topic in {record.topic for record in arrival.records}:
        sequences = [record.sequence for record in reader.applied if record.topic == topic]
        assert sequences == list(range(1, len(sequences) + 1))


@given(ARRIVALS)
def test_repeats_in_order_are_duplicates_and_no_faults(arrival: Arrival) -> None:
    reader = reader_of(arrival).take_all(arrival.delivery)
    assert {drop.reason.value for drop in reader.drops} <= {"duplicate"}
    assert len(reader.drops) == len(arrival.delivery) - len(arrival.records)
    assert reader.gaps == []


@given(HISTORIES, st.integers(0, 200))
def test_a_prefix_and_then_the_suffix_give_the_state_of_the_whole(records: list[Record], cut: int) -> None:
    place = cut % len(records)
    prefix = fold(records[:place], RunState(RUN))
    assert fold(records[place:], prefix) == fold(records)


@given(ARRIVALS, st.integers(0, 200), st.integers(0, 200))
def test_a_reader_that_goes_on_from_an_earlier_position_comes_to_the_same(arrival: Arrival, cut: int, back: int) -> None:
    delivery = arrival.delivery
    place = cut % len(delivery)
    before = reader_of(arrival).take_all(delivery[:place])
    after = before.going_on().take_all(delivery[max(place - back, 0) :])
    assert after.states == reader_of(arrival).take_all(delivery).states


@given(ARRIVALS, st.sampled_from([topics.EPOCH, topics.DECISIONS]), st.integers(0, 200), st.integers(1, 5))
def test_a_hole_in_facts_is_reported_once_with_its_bounds_and_healed_by_reading_again(
    arrival: Arrival, topic: str, start: int, length: int
) -> None:
    delivery = interleaved(arrival.records, arrival.order)
    facts = [record for record in delivery if record.topic == topic]
    assume(len(facts) > 1)
    first = start % (len(facts) - 1)
    gone = facts[first : min(first + length, len(facts) - 1)]
    reader = reader_of(arrival).take_all(record for record in delivery if record not in gone)
    assert reader.gaps == [(RUN, topic, gone[0].sequence, gone[-1].sequence)]
    assert reader.states[RUN] == fold(arrival.records)


@given(HISTORIES)
@settings(max_examples=10)  # Each takes a digest for every record, twice.
def test_a_state_is_never_changed_by_a_later_step(records: list[Record]) -> None:
    states = [RunState(RUN)]
    digests = [digest(states[0])]
    for record in records:
        states.append(step(states[-1], record))
        digests.append(digest(states[-1]))
    assert [digest(state) for state in states] == digests
