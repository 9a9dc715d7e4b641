"""What is admitted, dropped, missed and gone: one topic at a time, and the faults that are no duplicates."""

import pytest

from esper.errors import RuleError
from esper.events import topics
from esper.events.envelope import EventId, Record
from esper.events.kinds.observability import RunHeardAgain
from esper.folds.gaps_and_duplicates import Admission, Apply, Drop, Gap, Reason, admit, skip_gap
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


def admitted(*records: Record) -> Admission:
    admission = Admission()
    for record in records:
        verdict = admit(admission, record)
        assert isinstance(verdict, Apply)
        admission = verdict.admission
    return admission


def reason_of(verdict: Apply | Drop | Gap) -> Reason | None:
    return verdict.reason if isinstance(verdict, Drop) else None


def test_the_next_record_is_applied() -> None:
    first, second = epochs(2)
    assert isinstance(admit(admitted(first), second), Apply)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_repeat_is_a_duplicate(place: int) -> None:
    records = epochs(3)
    assert reason_of(admit(admitted(*records), records[place])) is Reason.DUPLICATE


def test_missing_facts_are_a_gap_with_its_bounds() -> None:
    records = epochs(5)
    verdict = admit(admitted(records[0]), records[4])
    assert isinstance(verdict, Gap)
    assert (verdict.from_, verdict.to) == (2, 4)
    assert verdict.admission.gap == (2, 4)


def test_missing_facts_at_the_front_are_a_gap() -> None:
    verdict = admit(Admission(), epochs(3)[2])
    assert isinstance(verdict, Gap)
    assert (verdict.from_, verdict.to) == (1, 2)


def test_what_lies_behind_an_open_gap_waits_and_is_not_reported_again() -> None:
    records = epochs(6)
    gap = admit(admitted(records[0]), records[3])
    assert isinstance(gap, Gap)
    assert reason_of(admit(gap.admission, records[3])) is Reason.BEHIND_GAP
    assert reason_of(admit(gap.admission, records[4])) is Reason.BEHIND_GAP


def test_a_gap_is_closed_by_its_last_record() -> None:
    records = epochs(4)
    gap = admit(admitted(records[0]), records[3])
    assert isinstance(gap, Gap)
    part = admit(gap.admission, records[1])
    assert isinstance(part, Apply)
    assert part.admission.gap == (3, 3)
    whole = admit(part.admission, records[2])
    assert isinstance(whole, Apply)
    assert whole.admission.gap is None
    assert whole.admission == admitted(*records[:3])


def test_the_next_gap_is_reported_for_itself() -> None:
    records = epochs(9)
    reader = Reader(from_log(records)).take_all(records[place] for place in (0, 3, 4, 7, 8))
    assert reader.gaps == [Missing(RUN, topics.EPOCH, 2, 3), Missing(RUN, topics.EPOCH, 6, 7)]
    assert len(reader.applied) == 9


def test_telemetry_whose_front_is_gone_starts_there() -> None:
    records = measured(5)
    verdict = admit(Admission(), records[3])
    assert isinstance(verdict, Apply)
    assert (verdict.expired, verdict.admission.sequence) == (3, 4)


def test_expired_telemetry_is_counted_once() -> None:
    records = measured(6)
    reader = Reader(from_log(records)).take_all(records[3:] + records[3:])
    assert reader.expired == {(RUN, topics.STEPS): 3}
    assert [record.sequence for record in reader.applied] == [4, 5, 6]


def test_telemetry_missing_behind_its_front_is_a_gap() -> None:
    records = measured(5)
    reader = Reader(from_log(records)).take_all([*records[:2], records[4]])
    assert reader.gaps == [Missing(RUN, topics.STEPS, 3, 4)]
    assert len(reader.applied) == 5


def test_a_gap_in_telemetry_that_stays_is_skipped() -> None:
    records = measured(5)
    gap = admit(admitted(*records[:2]), records[4])
    assert isinstance(gap, Gap)
    admission = skip_gap(gap.admission, topics.STEPS)
    assert isinstance(admit(admission, records[4]), Apply)
    assert reason_of(admit(admission, records[3])) is Reason.DUPLICATE


def test_what_was_skipped_and_comes_after_all_is_a_duplicate_whichever_incarnation_wrote_it() -> None:
    older, newer = measured(7)[:4], [record._replace(incarnation=2) for record in measured(7)[4:]]
    gap = admit(admitted(*older[:2]), newer[2])
    assert isinstance(gap, Gap)
    following = admit(skip_gap(gap.admission, topics.STEPS), newer[2])
    assert isinstance(following, Apply)
    assert [reason_of(admit(following.admission, record)) for record in (*older, *newer)] == [Reason.DUPLICATE] * 7


def test_an_older_incarnation_right_behind_what_was_skipped_is_a_conflict() -> None:
    records = [measured(5)[0], *(record._replace(incarnation=2) for record in measured(5)[1:])]
    gap = admit(admitted(*records[:2]), records[4])
    assert isinstance(gap, Gap)
    admission = skip_gap(gap.admission, topics.STEPS)
    assert reason_of(admit(admission, records[4]._replace(incarnation=1))) is Reason.CONFLICT


def test_missing_facts_are_never_skipped() -> None:
    records = epochs(3)
    gap = admit(admitted(records[0]), records[2])
    assert isinstance(gap, Gap)
    with pytest.raises(RuleError, match="a missing fact blocks the run"):
        skip_gap(gap.admission, topics.EPOCH)


def test_only_an_open_gap_is_skipped() -> None:
    with pytest.raises(RuleError, match="expected an open gap"):
        skip_gap(admitted(*measured(2)), topics.STEPS)


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
    admission = admitted(records[0], records[1]._replace(incarnation=2))
    verdict = admit(admission, records[2])
    assert verdict == Drop(Reason.CONFLICT, f"run {RUN}, topic {topics.EPOCH}, sequence 3: incarnation 1 wrote after incarnation 2")


def test_the_newer_incarnation_goes_on_after_a_conflict() -> None:
    records = epochs(3)
    newer = [records[0], records[1]._replace(incarnation=2), records[2]._replace(incarnation=2)]
    reader = Reader(from_log(newer)).take_all([*newer[:2], records[2], newer[2]])
    assert [drop.reason for drop in reader.drops] == [Reason.CONFLICT]
    assert [record.sequence for record in reader.applied] == [1, 2, 3]


def test_what_an_older_incarnation_wrote_in_its_time_is_repeated_as_a_duplicate() -> None:
    records = epochs(2)
    admission = admitted(records[0], records[1]._replace(incarnation=2))
    assert reason_of(admit(admission, records[0])) is Reason.DUPLICATE


@pytest.mark.parametrize(("place", "incarnation"), [(1, 1), (0, 2)])
def test_an_earlier_sequence_from_another_incarnation_than_wrote_it_is_a_conflict(place: int, incarnation: int) -> None:
    records = epochs(4)
    admission = admitted(records[0], *(record._replace(incarnation=2) for record in records[1:]))
    assert reason_of(admit(admission, records[place]._replace(incarnation=incarnation))) is Reason.CONFLICT


def test_a_derived_record_has_no_sequence_to_be_admitted_by() -> None:
    with pytest.raises(RuleError, match="expected a record with a sequence"):
        admit(Admission(), derived(epochs(1)[0], RunHeardAgain(silent_s=70.0)))
