"""What is admitted, dropped, missed and gone: one topic at a time, and the faults that are no duplicates."""

import pytest

from esper.errors import RuleError
from esper.events import topics
from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.observability import RunHeardAgain
from esper.folds.admit import Apply, Drop, Expired, Guard, Hole, Reason, Verdict, admit
from tests.folds.histories import RUN, Writer, completed, derived, steps
from tests.folds.readers import Missing, Reader, from_log


def epochs(count: int, incarnation: int = 1) -> list[Record]:
    writer = Writer(incarnation=incarnation)
    for epoch in range(1, count + 1):
        writer.epoch = epoch
        writer.write(completed(epoch))
    return writer.records


def measured(count: int) -> list[Record]:
    writer = Writer()
    for number in range(1, count + 1):
        writer.write(steps(number))
    return writer.records


def admitted(*records: Record) -> Guard:
    guard = Guard.start()
    for record in records:
        verdict = admit(guard, record)
        assert isinstance(verdict, Apply)
        guard = verdict.guard
    return guard


def reason_of(verdict: Verdict) -> Reason | None:
    return verdict.reason if isinstance(verdict, Drop) else None


def test_the_next_record_is_applied() -> None:
    first, second = epochs(2)
    assert isinstance(admit(admitted(first), second), Apply)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_repeat_is_a_duplicate(place: int) -> None:
    records = epochs(3)
    assert reason_of(admit(admitted(*records), records[place])) is Reason.DUPLICATE


def test_topics_and_runs_are_numbered_apart() -> None:
    fact, sample = epochs(1)[0], measured(1)[0]
    guard = admitted(fact, sample)
    assert isinstance(admit(guard, fact._replace(run=RunId("another"))), Apply)


def test_missing_facts_are_a_hole_with_its_bounds() -> None:
    records = epochs(5)
    verdict = admit(admitted(records[0]), records[4])
    assert isinstance(verdict, Hole)
    assert (verdict.from_, verdict.to) == (2, 4)
    assert verdict.guard.hole(RUN, topics.EPOCH) == (2, 4)


def test_missing_facts_at_the_front_are_a_hole() -> None:
    verdict = admit(Guard.start(), epochs(3)[2])
    assert isinstance(verdict, Hole)
    assert (verdict.from_, verdict.to) == (1, 2)


def test_what_lies_behind_an_open_hole_waits_and_is_not_reported_again() -> None:
    records = epochs(6)
    hole = admit(admitted(records[0]), records[3])
    assert isinstance(hole, Hole)
    assert reason_of(admit(hole.guard, records[3])) is Reason.BEHIND_HOLE
    assert reason_of(admit(hole.guard, records[4])) is Reason.BEHIND_HOLE


def test_a_hole_is_closed_by_its_last_record() -> None:
    records = epochs(4)
    hole = admit(admitted(records[0]), records[3])
    assert isinstance(hole, Hole)
    part = admit(hole.guard, records[1])
    assert isinstance(part, Apply)
    assert part.guard.hole(RUN, topics.EPOCH) == (3, 3)
    whole = admit(part.guard, records[2])
    assert isinstance(whole, Apply)
    assert whole.guard.hole(RUN, topics.EPOCH) is None
    assert whole.guard == admitted(*records[:3])


def test_the_next_hole_is_reported_for_itself() -> None:
    records = epochs(9)
    reader = Reader(from_log(records)).take_all(records[place] for place in (0, 3, 4, 7, 8))
    assert reader.holes == [Missing(RUN, topics.EPOCH, 2, 3), Missing(RUN, topics.EPOCH, 6, 7)]
    assert len(reader.applied) == 9


def test_telemetry_whose_front_is_gone_starts_there() -> None:
    records = measured(5)
    verdict = admit(Guard.start(), records[3])
    assert isinstance(verdict, Expired)
    assert verdict.to == 3
    assert isinstance(admit(verdict.guard, records[3]), Apply)


def test_expired_telemetry_is_counted_once() -> None:
    records = measured(6)
    reader = Reader(from_log(records)).take_all(records[3:] + records[3:])
    assert reader.expired == {(RUN, topics.STEPS): 3}
    assert [record.sequence for record in reader.applied] == [4, 5, 6]


def test_telemetry_missing_behind_its_front_is_a_hole() -> None:
    records = measured(5)
    reader = Reader(from_log(records)).take_all([*records[:2], records[4]])
    assert reader.holes == [Missing(RUN, topics.STEPS, 3, 4)]
    assert len(reader.applied) == 5


def test_a_hole_in_telemetry_that_stays_is_passed_over() -> None:
    records = measured(5)
    hole = admit(admitted(*records[:2]), records[4])
    assert isinstance(hole, Hole)
    guard = hole.guard.passed_over(RUN, topics.STEPS)
    assert isinstance(admit(guard, records[4]), Apply)
    assert reason_of(admit(guard, records[3])) is Reason.DUPLICATE


def test_what_was_passed_over_and_comes_after_all_is_a_duplicate_whichever_incarnation_wrote_it() -> None:
    older, newer = measured(7)[:4], [record._replace(incarnation=2) for record in measured(7)[4:]]
    hole = admit(admitted(*older[:2]), newer[2])
    assert isinstance(hole, Hole)
    following = admit(hole.guard.passed_over(RUN, topics.STEPS), newer[2])
    assert isinstance(following, Apply)
    assert [reason_of(admit(following.guard, record)) for record in (*older, *newer)] == [Reason.DUPLICATE] * 7


def test_an_older_incarnation_right_behind_what_was_passed_over_is_a_conflict() -> None:
    records = [measured(5)[0], *(record._replace(incarnation=2) for record in measured(5)[1:])]
    hole = admit(admitted(*records[:2]), records[4])
    assert isinstance(hole, Hole)
    guard = hole.guard.passed_over(RUN, topics.STEPS)
    assert reason_of(admit(guard, records[4]._replace(incarnation=1))) is Reason.CONFLICT


def test_missing_facts_are_never_passed_over() -> None:
    records = epochs(3)
    hole = admit(admitted(records[0]), records[2])
    assert isinstance(hole, Hole)
    with pytest.raises(RuleError, match="a missing fact blocks the run"):
        hole.guard.passed_over(RUN, topics.EPOCH)


def test_only_an_open_hole_is_passed_over() -> None:
    with pytest.raises(RuleError, match="expected an open hole"):
        admitted(*measured(2)).passed_over(RUN, topics.STEPS)


def test_the_last_record_with_other_bytes_is_a_conflict() -> None:
    records = epochs(2)
    other = records[1]._replace(data=records[1].data.replace(b'"loss":1.0', b'"loss":2.0'))
    assert other.data != records[1].data
    assert reason_of(admit(admitted(*records), other)) is Reason.CONFLICT


@pytest.mark.parametrize(
    "change",
    [{"id": EventId("run/99")}, {"epoch": 7}, {"step": 7}, {"chain": b"\0" * 32}, {"type": "esper.epoch.completed.v2"}],
)
def test_the_last_record_with_another_envelope_is_a_conflict(change: dict[str, object]) -> None:
    records = epochs(2)
    other = Record(**{**records[1]._asdict(), **change})
    assert reason_of(admit(admitted(*records), other)) is Reason.CONFLICT


def test_another_writer_of_the_same_bytes_is_a_duplicate() -> None:
    records = epochs(2)
    assert reason_of(admit(admitted(*records), records[1]._replace(writer="bridge"))) is Reason.DUPLICATE


def test_an_older_incarnation_after_a_newer_one_is_a_conflict() -> None:
    records = epochs(3)
    guard = admitted(records[0], records[1]._replace(incarnation=2))
    verdict = admit(guard, records[2])
    assert verdict == Drop(Reason.CONFLICT, f"run {RUN}, topic {topics.EPOCH}, sequence 3: incarnation 1 wrote after incarnation 2")


def test_the_newer_incarnation_goes_on_after_a_conflict() -> None:
    records = epochs(3)
    newer = [records[0], records[1]._replace(incarnation=2), records[2]._replace(incarnation=2)]
    reader = Reader(from_log(newer)).take_all([*newer[:2], records[2], newer[2]])
    assert [drop.reason for drop in reader.drops] == [Reason.CONFLICT]
    assert [record.sequence for record in reader.applied] == [1, 2, 3]


def test_what_an_older_incarnation_wrote_in_its_time_is_repeated_as_a_duplicate() -> None:
    records = epochs(2)
    guard = admitted(records[0], records[1]._replace(incarnation=2))
    assert reason_of(admit(guard, records[0])) is Reason.DUPLICATE


@pytest.mark.parametrize(("place", "incarnation"), [(1, 1), (0, 2)])
def test_an_earlier_sequence_from_another_incarnation_than_wrote_it_is_a_conflict(place: int, incarnation: int) -> None:
    records = epochs(4)
    guard = admitted(records[0], *(record._replace(incarnation=2) for record in records[1:]))
    assert reason_of(admit(guard, records[place]._replace(incarnation=incarnation))) is Reason.CONFLICT


def test_a_derived_record_is_applied_once() -> None:
    record = derived(epochs(1)[0], RunHeardAgain(silent_s=70.0))
    assert reason_of(admit(admitted(record), record)) is Reason.DUPLICATE


def test_a_derived_id_with_other_bytes_is_a_conflict() -> None:
    cause = epochs(1)[0]
    guard = admitted(derived(cause, RunHeardAgain(silent_s=70.0)))
    assert reason_of(admit(guard, derived(cause, RunHeardAgain(silent_s=71.0)))) is Reason.CONFLICT


def test_derived_records_may_come_in_any_order() -> None:
    cause = epochs(1)[0]
    events = [derived(cause, RunHeardAgain(silent_s=70.0), index) for index in range(4)]
    reader = Reader().take_all([events[2], events[0], events[3], events[0], events[1]])
    assert len(reader.applied) == 4


def test_a_run_that_is_forgotten_leaves_nothing() -> None:
    fact = epochs(1)[0]
    event = derived(fact, RunHeardAgain(silent_s=70.0))
    other = RunId("another")
    guard = admitted(fact, event, fact._replace(run=other), event._replace(run=other))
    assert guard.without(RUN) == admitted(fact._replace(run=other), event._replace(run=other))
