import hashlib
import json
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue
from pydantic_core import PydanticSerializationError

from esper.events.digests import canonical, chain, comparison_form, derived_id, digest_of, to_json
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.events.fields import VOLATILE, Count, Event, Float, Metrics, Part, Reference
from esper.events.kinds.lifecycle import Stage
from esper.folds.seeds import Slot
from esper.folds.sorted_map import SortedMap
from tests.events.examples import EXAMPLE
from tests.folds.histories import seed_row


def test_chain_is_over_counted_texts_then_numbers_then_the_previous_chain_and_the_payload() -> None:
    texts = b"17:system.events.run3:run7:trainer21:esper.stream.ended.v10:5:run/1"
    numbers = b"3 5 7 1 1772366400000250 2 40 16 "
    assert chain(EXAMPLE, b"\x01" * 32) == hashlib.sha256(texts + numbers + b"\x01" * 32 + EXAMPLE.data).digest()


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
NUMBER = st.integers(0, 2**63)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "run": TEXT.map(RunId),
        "topic": TEXT,
        "writer": TEXT,
        "sequence": st.none() | NUMBER,
        "fact": st.none() | NUMBER,
        "moment": NUMBER.map(Moment),
        "incarnation": NUMBER,
        "type": TEXT,
        "time": st.timedeltas(timedelta(), timedelta(days=9)).map(lambda later: EXAMPLE.time + later),
        "epoch": NUMBER,
        "step": NUMBER,
        "cause": st.none() | TEXT.filter(bool).map(EventId),
        "trace": st.none() | TEXT.filter(bool),
        "data": st.binary(max_size=30),
    },
)


def changed(changes: dict[str, object]) -> Record:
    return Record._make(changes.get(field, value) for field, value in EXAMPLE._asdict().items())


@given(CHANGES, CHANGES, st.binary(max_size=32), st.binary(max_size=32))
def test_any_change_of_a_chained_field_changes_the_chain(
    one: dict[str, object], other: dict[str, object], previous: bytes, other_previous: bytes
) -> None:
    first, second = changed(one), changed(other)
    assert (chain(first, previous) == chain(second, other_previous)) == (first == second and previous == other_previous)


CHAINED = set(Record._fields) - {"id", "generation", "chain"}


@pytest.mark.parametrize("field", sorted(CHAINED))
def test_chain_covers_each_field_by_itself(field: str) -> None:
    other = EXAMPLE._replace(
        run=RunId("another"),
        topic="another",
        writer="another",
        sequence=None,
        fact=None,
        moment=Moment(8),
        incarnation=2,
        type="another",
        time=EXAMPLE.time + timedelta(microseconds=1),
        epoch=3,
        step=41,
        cause=None,
        trace="another",
        data=b"{ }",
    )
    assert chain(changed({field: getattr(other, field)}), b"") != chain(EXAMPLE, b"")


def test_chain_does_not_read_the_records_own() -> None:
    assert chain(EXAMPLE._replace(chain=b"\x02" * 32), b"") == chain(EXAMPLE, b"")


def test_derived_id_is_the_same_from_the_same_and_another_from_another() -> None:
    made = derived_id(EventId("run/7"), "loss-spike", 1, "abc", 0)
    assert made == derived_id(EventId("run/7"), "loss-spike", 1, "abc", 0)
    others = [
        derived_id(EventId("run/8"), "loss-spike", 1, "abc", 0),
        derived_id(EventId("run/7"), "loss-drop", 1, "abc", 0),
        derived_id(EventId("run/7"), "loss-spike", 2, "abc", 0),
        derived_id(EventId("run/7"), "loss-spike", 1, "abd", 0),
        derived_id(EventId("run/7"), "loss-spike", 1, "abc", 1),
    ]
    assert len({made, *others}) == 6
    assert len(made) == 32


def test_canonical_json_has_sorted_keys_and_no_spaces() -> None:
    assert canonical({"b": [1, 0.1, None], "a": "é"}) == '{"a":"é","b":[1,0.1,null]}'.encode()
    assert digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})


def test_canonical_json_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(math.nan)


class Inner(Part):
    value: Float
    took_s: Annotated[Float, VOLATILE]
    source: Reference | None


class Compared(Event):
    """An event with every shape that the comparison form must look into."""

    KIND: ClassVar[str] = "esper.test.compared.v1"
    TOPIC: ClassVar[str] = "*"
    plain: str
    metrics: Metrics
    cause_of_it: Reference
    evidence: tuple[Reference, ...]
    maybe: tuple[Reference | None, ...]
    part: Inner
    maybe_part: Inner | None
    parts: tuple[Inner, ...]
    named_parts: dict[str, Inner]
    named_references: dict[str, Reference]
    latencies: Annotated[tuple[Float | None, ...], VOLATILE]
    maybe_latency: Annotated[Float, VOLATILE] | None
    volatile_values: dict[str, Annotated[Count, VOLATILE]]


@dataclass(frozen=True)
class Numbers:
    """Where ids of one execution stand; another execution's ids stand at the same places."""

    run: str = "run"

    def resolve(self, event_id: EventId) -> str:
        return event_id.replace(f"{self.run}/", "topic:")

    def event(self, took_s: float = 1.0) -> Compared:
        reference = EventId(f"{self.run}/4")
        inner = Inner(value=math.nan, took_s=took_s, source=reference)
        return Compared(
            plain=f"{reference} is text here",
            metrics={"accuracy": math.inf, "recall": 0.5},
            cause_of_it=reference,
            evidence=(reference, reference),
            maybe=(None, reference),
            part=inner,
            maybe_part=None,
            parts=(inner,),
            named_parts={"a": inner},
            named_references={"a": reference},
            latencies=(took_s, None),
            maybe_latency=took_s,
            volatile_values={"a": int(took_s)},
        )


def test_comparison_form_leaves_out_the_volatile_and_resolves_references_wherever_they_stand() -> None:
    inner: JsonValue = {"value": "NaN", "source": "topic:4"}
    assert comparison_form(Numbers().event(), Numbers().resolve) == {
        "plain": "run/4 is text here",
        "metrics": {"accuracy": "Infinity", "recall": 0.5},
        "cause_of_it": "topic:4",
        "evidence": ["topic:4", "topic:4"],
        "maybe": [None, "topic:4"],
        "part": inner,
        "maybe_part": None,
        "parts": [inner],
        "named_parts": {"a": inner},
        "named_references": {"a": "topic:4"},
    }


def test_executions_that_differ_in_volatile_fields_and_ids_alone_compare_equal() -> None:
    one, other = Numbers("run"), Numbers("run-again")
    first, second = one.event(took_s=1.0), other.event(took_s=2.0).model_copy(update={"plain": one.event().plain})
    assert comparison_form(first, one.resolve) == comparison_form(second, other.resolve)


def test_executions_that_differ_in_a_value_compare_different() -> None:
    event = Numbers().event()
    other = event.model_copy(update={"metrics": {"accuracy": math.inf, "recall": 0.25}})
    assert comparison_form(event, Numbers().resolve) != comparison_form(other, Numbers().resolve)


def test_kind_without_marks_compares_as_its_payload() -> None:
    class Plain(Event):
        KIND: ClassVar[str] = "esper.test.plain.v1"
        TOPIC: ClassVar[str] = "*"
        loss: tuple[Float | None, ...]

    assert comparison_form(Plain(loss=(math.nan, None, 1.0)), str) == {"loss": ["NaN", None, 1.0]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.1, 0.1),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (Stage.DORMANT, "DORMANT"),
        (b"\x01\xff", "01ff"),
        ((1, ("a",)), [1, ["a"]]),
        (SortedMap([((2, "b"), 1), ((1, "a"), 2)]), [[[1, "a"], 2], [[2, "b"], 1]]),
    ],
)
def test_a_value_has_its_json_form(value: object, expected: object) -> None:
    assert to_json(value) == expected


def test_a_table_has_one_form_whatever_came_first() -> None:
    assert to_json(SortedMap([("b", 1), ("a", 2)])) == to_json(SortedMap([("a", 2), ("b", 1)])) == [["a", 2], ["b", 1]]


def test_a_slot_is_an_object_of_its_parts() -> None:
    row = seed_row("layer0", 0, Stage.DORMANT, alpha=math.nan)
    assert to_json(Slot(row)) == {"row": json.loads(row.model_dump_json()), "command": None}
    assert json.loads(row.model_dump_json())["alpha"] == "NaN"


def test_a_value_without_a_json_form_is_refused() -> None:
    with pytest.raises(PydanticSerializationError):
        to_json({"a": object()})
