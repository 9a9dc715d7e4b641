"""What an observer keeps beside a run: written once, saved with its position, readable at any time."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.oona.contract import START, Position
from esper.oona.observed import Observed, SavedState, end_of_observed, is_observed, is_settled, read_observed

RUN = RunId("run")
THERE = Position((("run.sqlite", 7),))
LATER = Position((("run.sqlite", 9),))


def derived(identity: str, *, topic: str = "observability.alerts", data: bytes = b"{}") -> Record:
    return Record(
        id=EventId(identity),
        run=RUN,
        topic=topic,
        writer="observer",
        sequence=None,
        fact=None,
        moment=Moment(5),
        generation=1,
        incarnation=1,
        type="esper.alert.firing.v1",
        time=datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC),
        epoch=1,
        step=9,
        cause=EventId("run/5"),
        trace=None,
        chain=None,
        data=data,
    )


def test_what_was_saved_is_read_back_as_it_was(tmp_path: Path) -> None:
    with Observed(tmp_path, RUN) as observed:
        observed.save([derived("a"), derived("b")])
    assert read_observed(tmp_path, RUN).records == (derived("a"), derived("b"))


def test_a_page_holds_the_topics_that_were_asked_for_and_goes_on_after_itself(tmp_path: Path) -> None:
    with Observed(tmp_path, RUN) as observed:
        observed.save([derived("a"), derived("x", topic="observability.anomalies"), derived("b"), derived("c")])
    alerts = frozenset({"observability.alerts"})
    first = read_observed(tmp_path, RUN, limit=2, topics=alerts)
    rest = read_observed(tmp_path, RUN, first.position, topics=alerts)
    assert [record.id for record in (*first.records, *rest.records)] == ["a", "b", "c"]
    assert read_observed(tmp_path, RUN, rest.position, topics=alerts) == ((), rest.position)


def test_the_end_is_where_a_reader_finds_nothing_yet(tmp_path: Path) -> None:
    assert end_of_observed(tmp_path).row("observed.sqlite") == 0
    with Observed(tmp_path, RUN) as observed:
        observed.save([derived("a"), derived("b")])
        end = end_of_observed(tmp_path)
        assert read_observed(tmp_path, RUN, end).records == ()
        observed.save([derived("c")])
        assert read_observed(tmp_path, RUN, end).records == (derived("c"),)


def test_a_sealed_file_is_one_file_that_can_be_read_and_opened_again(tmp_path: Path) -> None:
    observed = Observed(tmp_path, RUN)
    observed.save([derived("a")], THERE)
    assert observed.seal()
    assert is_settled(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["observed.sealed", "observed.sqlite"]
    assert len(read_observed(tmp_path, RUN).records) == 1
    with Observed(tmp_path, RUN) as again:
        assert not is_settled(tmp_path)
        assert again.saved().derived_to == THERE


def test_the_file_of_another_run_is_refused(tmp_path: Path) -> None:
    Observed(tmp_path, RUN).close()
    with pytest.raises(LogError, match="expected the observed file of run other, got that of run run"):
        Observed(tmp_path, RunId("other"))


Reopen = Callable[[], Observed]


@pytest.fixture
def reopen(tmp_path: Path) -> Reopen:
    """The file of the same run, opened once more."""
    return lambda: Observed(tmp_path, RUN)


def test_nothing_is_saved_of_a_run_that_nobody_observed(reopen: Reopen) -> None:
    assert reopen().saved() == SavedState(START, START, {})


def test_position_and_state_are_there_for_the_next_host(reopen: Reopen) -> None:
    reopen().save([derived("a")], THERE, {"run": b"state", "topic": b"cell"})
    assert reopen().saved() == SavedState(THERE, THERE, {"run": b"state", "topic": b"cell"})


def test_the_state_stays_where_it_was_saved_while_the_position_goes_on(reopen: Reopen) -> None:
    store = reopen()
    store.save([], THERE, {"topic": b"cell"})
    store.save([], LATER)
    assert store.saved() == SavedState(LATER, THERE, {"topic": b"cell"})


def test_parts_that_did_not_change_stay_beside_those_that_did(reopen: Reopen) -> None:
    store = reopen()
    store.save([], THERE, {"one": b"1", "two": b"2"})
    store.save([], LATER, {"two": b"3"})
    assert store.saved() == SavedState(LATER, LATER, {"one": b"1", "two": b"3"})


def test_records_without_a_position_leave_it_where_it_is(reopen: Reopen) -> None:
    store = reopen()
    store.save([], THERE, {"one": b"1"})
    store.save([derived("a")])
    assert store.saved() == SavedState(THERE, THERE, {"one": b"1"})


def test_a_record_that_is_derived_again_is_written_once(reopen: Reopen) -> None:
    store = reopen()
    assert store.save([derived("a")]) == (derived("a"),)
    assert store.save([derived("a"), derived("b")]) == (derived("b"),)
    assert reopen().save([derived("b"), derived("b"), derived("c"), derived("c")]) == (derived("c"),)


def test_the_same_id_with_other_bytes_is_refused_and_nothing_of_its_call_is_saved(reopen: Reopen) -> None:
    store = reopen()
    store.save([derived("a")])
    with pytest.raises(LogError, match=r"derived event a stands in .* with other bytes"):
        store.save([derived("b"), derived("a", data=b"{ }")], THERE, {"one": b"1"})
    assert store.saved() == SavedState(START, START, {})
    assert store.save([derived("b")]) == (derived("b"),)


def test_a_run_that_nobody_observed_has_no_file(tmp_path: Path) -> None:
    assert not is_observed(tmp_path)
    assert read_observed(tmp_path, RUN).records == ()
