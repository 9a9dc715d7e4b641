"""Facts go out by number, each once, however they come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError, RuleError
from esper.events.envelope import Record, RunId
from esper.folds.fact_order import FactOrder, merge
from tests.folds.histories import RUN, Writer, completed, steps, training

FACTS = [record for record in training([0, 1, 6, 2, 0]) if record.fact is not None]


def merged(records: list[Record], state: FactOrder) -> tuple[FactOrder, list[Record]]:
    out: list[Record] = []
    for record in records:
        state, ready = merge(state, record)
        out.extend(ready)
    return state, out


@given(st.permutations(FACTS), st.lists(st.sampled_from(FACTS), max_size=10))
def test_any_order_and_repetition_goes_out_in_the_order_of_writing(arrival: list[Record], again: list[Record]) -> None:
    state, out = merged([*arrival, *again], FactOrder(RUN))
    assert out == FACTS
    assert state == FactOrder(RUN, following=len(FACTS) + 1)


def test_a_fact_waits_for_those_before_it() -> None:
    state, out = merged([FACTS[0], FACTS[3], FACTS[4]], FactOrder(RUN))
    assert out == FACTS[:1]
    assert state.missing == (2, 3)


def test_nothing_is_missing_while_nothing_waits() -> None:
    state, _ = merged(FACTS[:3], FactOrder(RUN))
    assert state.missing is None


def test_a_merge_goes_on_behind_a_fact() -> None:
    _, out = merged(FACTS, FactOrder(RUN, following=5))
    assert out == FACTS[4:]


def test_two_records_with_one_number_are_refused() -> None:
    other = FACTS[2]._replace(topic=FACTS[3].topic, id=FACTS[3].id)
    with pytest.raises(DataError, match="expected one record with fact number 3"):
        merged([FACTS[2], other], FactOrder(RUN))


def test_telemetry_is_refused() -> None:
    writer = Writer()
    writer.write(steps(1))
    with pytest.raises(RuleError, match="expected a fact of run"):
        merge(FactOrder(RUN), writer.records[0])


def test_a_fact_of_another_run_is_refused() -> None:
    writer = Writer(run=RunId("another"))
    writer.write(completed(1))
    with pytest.raises(RuleError, match=f"expected a fact of run {RUN}"):
        merge(FactOrder(RUN), writer.records[0])
