"""The contract of a store, over the file and over memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.envelope import Record
from esper.oona.contract import START, Position
from esper.oona.observed import Observed, is_observed, read_observed
from esper.oona.store import SavedState, Store
from tests.oona.test_observed import RUN, derived

THERE = Position((("run.sqlite", 7),))
LATER = Position((("run.sqlite", 9),))


class MemoryStore:
    """A store that lasts as long as its object."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.state = SavedState(START, START, {})

    def saved(self) -> SavedState:
        return self.state

    def save(
        self, records: Sequence[Record], derived_to: Position | None = None, parts: Mapping[str, bytes] | None = None
    ) -> tuple[Record, ...]:
        for record in records:
            known = self.records.get(record.id, record)
            if (known.topic, known.type, known.data) != (record.topic, record.type, record.data):
                raise LogError(f"derived event {record.id} stands in memory with other bytes already")
        new = tuple({record.id: record for record in records if record.id not in self.records}.values())
        self.records |= {record.id: record for record in new}
        if derived_to is not None:
            self.state = self.state._replace(derived_to=derived_to)
            if parts is not None:
                self.state = SavedState(derived_to, derived_to, {**self.state.parts, **parts})
        return new

    def forget(self) -> None:
        self.state = SavedState(self.state.derived_to, START, {})


Reopen = Callable[[], Store]


@pytest.fixture(params=["file", "memory"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    """A store of the same run, opened once more."""
    if request.param == "file":
        return lambda: Observed(tmp_path, RUN)
    memory = MemoryStore()
    return lambda: memory


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


def test_a_forgotten_state_leaves_the_derived_records_and_their_position(reopen: Reopen) -> None:
    store = reopen()
    store.save([derived("a")], THERE, {"one": b"1"})
    store.forget()
    assert store.saved() == SavedState(THERE, START, {})
    assert store.save([derived("a")]) == ()


def test_a_run_that_nobody_observed_has_no_file(tmp_path: Path) -> None:
    assert not is_observed(tmp_path)
    assert read_observed(tmp_path, RUN).records == ()
