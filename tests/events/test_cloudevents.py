from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError
from esper.events import topics
from esper.events.cloudevents import HEADERS, headers, record_from
from esper.events.envelope import EventId, Moment, Record, RunId

RUN = RunId("01958f3a-7c41-7e02-9a53-0123456789ab")
FACT = Record(
    id=EventId(f"{RUN}/7"),
    run=RUN,
    topic=topics.LIFECYCLE,
    writer="trainer",
    sequence=3,
    fact=5,
    moment=Moment(7),
    generation=0,
    incarnation=1,
    type="esper.seed.transitioned.v1",
    time=datetime(2026, 3, 1, 12, 0, 0, 250, tzinfo=UTC),
    epoch=2,
    step=2**40,
    cause=EventId(f"{RUN}/6"),
    trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    chain=bytes(range(32)),
    data=b'{"site":"features.0"}',
)
DERIVED = FACT._replace(id=EventId("9f" * 16), topic=topics.ALERTS, sequence=None, fact=None, generation=2, trace=None, chain=None)
FIRST = FACT._replace(cause=None, trace=None)

Headers = list[tuple[str, bytes | None]]


def on_kafka(record: Record) -> Headers:
    return list(headers(record))


def read(of: Headers, record: Record = FACT) -> Record:
    return record_from(of, record.run.encode(), record.data, record.topic)


def test_fact_becomes_these_headers() -> None:
    assert headers(FACT) == [
        ("ce_specversion", b"1.0"),
        ("content-type", b"application/json"),
        ("ce_id", b"01958f3a-7c41-7e02-9a53-0123456789ab/7"),
        ("ce_source", b"/esper/01958f3a-7c41-7e02-9a53-0123456789ab/system.events.lifecycle"),
        ("ce_type", b"esper.seed.transitioned.v1"),
        ("ce_time", b"2026-03-01T12:00:00.000250Z"),
        ("ce_run", b"01958f3a-7c41-7e02-9a53-0123456789ab"),
        ("ce_partitionkey", b"01958f3a-7c41-7e02-9a53-0123456789ab"),
        ("ce_writer", b"trainer"),
        ("ce_sequence", b"00000000000000000003"),
        ("ce_fact", b"5"),
        ("ce_moment", b"7"),
        ("ce_generation", b"0"),
        ("ce_incarnation", b"1"),
        ("ce_epoch", b"2"),
        ("ce_step", b"1099511627776"),
        ("ce_causationid", b"01958f3a-7c41-7e02-9a53-0123456789ab/6"),
        ("ce_traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("ce_chain", bytes(range(32)).hex().encode()),
    ]


def test_what_a_record_does_not_have_is_left_out() -> None:
    absent = {name for name, _ in headers(FACT)} - {name for name, _ in headers(DERIVED)}
    assert absent == {"ce_sequence", "ce_fact", "ce_traceparent", "ce_chain"}


@pytest.mark.parametrize("record", [FACT, DERIVED, FIRST, FACT._replace(fact=None), FACT._replace(data=b"", writer="ögent-1")])
def test_record_reads_back_as_written(record: Record) -> None:
    assert read(on_kafka(record), record) == record


COUNTERS = st.integers(0, 10**19 - 1)


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.tuples(*[COUNTERS] * 7),
    st.text(st.characters(codec="utf-8", exclude_characters="\n/"), min_size=1),
    st.binary(max_size=64),
)
def test_any_record_reads_back_as_written(time: datetime, counters: tuple[int, ...], run: str, data: bytes) -> None:
    sequence, fact, moment, generation, incarnation, epoch, step = counters
    record = FACT._replace(
        run=RunId(run),
        time=time,
        sequence=sequence,
        fact=fact,
        moment=Moment(moment),
        generation=generation,
        incarnation=incarnation,
        epoch=epoch,
        step=step,
        data=data,
    )
    assert read(on_kafka(record), record) == record


def test_order_of_headers_and_headers_of_others_do_not_matter() -> None:
    others: Headers = [("__streams.errors.message", b"\xff"), ("ce_dataschema", b"x"), ("b3", None)]
    assert read([*reversed(on_kafka(FACT)), *others, *others]) == FACT


@pytest.mark.parametrize("name", [name for name, attribute in HEADERS.items() if attribute.required])
def test_missing_header_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"topic {topics.LIFECYCLE}.*expected header {name}, got none"):
        read([header for header in on_kafka(FACT) if header[0] != name])


@pytest.mark.parametrize("name", ["ce_sequence", "ce_chain"])
def test_what_a_writer_says_has_a_number_and_a_chain(name: str) -> None:
    with pytest.raises(DataError, match=f"expected header {name} on a record of the run's writer, got none"):
        read([header for header in on_kafka(FACT) if header[0] != name])


@pytest.mark.parametrize("name", list(HEADERS))
@pytest.mark.parametrize("value", [b"\xff\xfe", b"", None])
def test_header_that_is_not_text_is_named(name: str, value: bytes | None) -> None:
    with pytest.raises(DataError, match=f"expected header {name} (in UTF-8|to match)"):
        read([(name, value) if header == name else (header, text) for header, text in on_kafka(FACT)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ce_specversion", b"0.3"),
        ("content-type", b"application/cloudevents+json"),
        ("ce_source", b"/esper/another/system.events.lifecycle"),
        ("ce_source", b"/esper/01958f3a-7c41-7e02-9a53-0123456789ab/system.events.run"),
        ("ce_partitionkey", b"another"),
        ("ce_time", b"2026-03-01T12:00:00Z"),
        ("ce_time", b"2026-02-30T12:00:00.000250Z"),
        ("ce_sequence", b"3"),
        ("ce_moment", b"007"),
        ("ce_moment", b"-7"),
        ("ce_moment", b" 7"),
        ("ce_moment", b"7\n"),
        ("ce_moment", "\u0667".encode()),
        ("ce_step", b"1e3"),
        ("ce_fact", b"9" * 5000),
        ("ce_chain", b"00"),
        ("ce_chain", b"AB" * 32),
    ],
)
def test_other_spellings_and_contradictions_are_refused(name: str, value: bytes) -> None:
    with pytest.raises(DataError, match=name):
        read([(name, value) if header == name else (header, text) for header, text in on_kafka(FACT)])


def test_doubled_header_is_refused() -> None:
    with pytest.raises(DataError, match="expected header ce_epoch once"):
        read([*on_kafka(FACT), ("ce_epoch", b"2")])


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: record_from(headers(FACT), b"another", FACT.data, FACT.topic), "expected its key to be"),
        (lambda: record_from(headers(FACT), None, FACT.data, FACT.topic), "expected its key to be .* got None"),
        (lambda: record_from(headers(FACT), FACT.run.encode(), None, FACT.topic), "expected a payload, got no value"),
        (lambda: record_from(headers(FACT), FACT.run.encode(), FACT.data, topics.RUN), "expected header ce_source to be"),
    ],
)
def test_key_value_and_topic_must_belong_to_the_headers(attempt: Callable[[], Record], message: str) -> None:
    with pytest.raises(DataError, match=message):
        attempt()


def test_refusal_says_where() -> None:
    with pytest.raises(DataError, match=rf"a record in topic {topics.LIFECYCLE}, id {RUN}/7: "):
        read([*on_kafka(FACT), ("ce_epoch", b"2")])
