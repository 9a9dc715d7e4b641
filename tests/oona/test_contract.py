"""What every log promises; each test runs against the log on disk and the one in memory."""

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper.errors import DataError, LogError, RuleError
from esper.events import topics
from esper.events.envelope import Moment, Record
from esper.oona.contract import START, Position, RunWriter, records_of
from tests.oona.samples import OTHER, TOPICS, everything, mixed

TEN = mixed(10)
MANY = mixed(60)


def test_records_come_back_as_they_were_appended(log: RunWriter) -> None:
    log.append(TEN)
    assert log.read().records == TEN


def test_an_empty_log_ends_at_its_start(log: RunWriter) -> None:
    page = log.read()
    assert page.records == ()
    assert page.position == log.end()


def test_appending_nothing_changes_nothing(log: RunWriter) -> None:
    log.append(())
    assert log.heads().moment == 0


def test_a_page_goes_on_where_the_last_one_ended(log: RunWriter) -> None:
    log.append(TEN)
    first = log.read(limit=4)
    second = log.read(first.position, limit=100)
    assert first.records + second.records == TEN
    assert second.position == log.end()


def test_a_position_survives_as_text(log: RunWriter) -> None:
    log.append(TEN)
    position = log.read(limit=3).position
    assert log.read(Position.from_text(position.to_text())).records == TEN[3:]


def test_a_page_of_some_topics_leaves_the_others_behind(log: RunWriter) -> None:
    log.append(TEN)
    page = log.read(topics=frozenset({topics.COMMANDS}))
    assert {record.topic for record in page.records} == {topics.COMMANDS}
    assert page.position == log.end()


def test_no_topics_are_no_records(log: RunWriter) -> None:
    log.append(TEN)
    assert log.read(topics=frozenset()) == ((), log.end())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 70), chosen=st.none() | st.frozensets(st.sampled_from(TOPICS)))
def test_pages_of_any_size_and_topics_are_the_log_filtered(log: RunWriter, limit: int, chosen: frozenset[str] | None) -> None:
    if log.heads().moment == 0:
        log.append(MANY)
    got: list[Record] = []
    position = START
    while True:
        page = log.read(position, limit, chosen)
        got.extend(page.records)
        position = page.position
        if len(page.records) < limit:
            break
    assert got == [record for record in MANY if chosen is None or record.topic in chosen]


@pytest.mark.parametrize(
    "chosen", [None, *map(frozenset, (TOPICS, {topics.RUN}, {topics.STEPS}, {topics.RUN, topics.HEARTBEAT}, TOPICS[:2], ()))]
)
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_the_last_records_are_the_end_of_the_log_filtered(log: RunWriter, limit: int, chosen: frozenset[str] | None) -> None:
    log.append(MANY)
    filtered = [record for record in MANY if chosen is None or record.topic in chosen]
    assert log.last(limit, chosen) == tuple(filtered[-limit:])


@pytest.mark.parametrize(("at", "keep", "passed"), [(0, 0, 10), (0, 4, 6), (3, 4, 3), (3, 7, 0), (10, 0, 0), (10, 4, 0)])
def test_a_reader_too_far_behind_goes_on_nearer_to_the_end(log: RunWriter, at: int, keep: int, passed: int) -> None:
    log.append(TEN)
    position, skipped = log.skip(log.read(limit=at).position if at else None, keep)
    assert skipped == passed
    assert log.read(position).records == TEN[at + passed :]


@pytest.mark.parametrize("limit", [1, 7, 10, 100])
def test_records_come_over_any_pages(log: RunWriter, limit: int) -> None:
    log.append(TEN)
    assert tuple(records_of(log, None, limit)) == TEN


def test_waiting_ends_at_once_when_records_stand_there(log: RunWriter) -> None:
    log.append(TEN)
    assert log.wait(START, 60.0)


def test_waiting_gives_up(log: RunWriter) -> None:
    log.append(TEN)
    assert not log.wait(log.end(), 0.01)


def test_waiting_ends_when_another_thread_appends(log: RunWriter) -> None:
    log.append(TEN[:4])
    position = log.end()
    thread = threading.Thread(target=log.append, args=(TEN[4:],))
    thread.start()
    assert log.wait(position, 60.0)
    thread.join()


BAD: list[tuple[str, Callable[[Record], Record]]] = [
    ("sequence", lambda record: record._replace(sequence=9)),
    ("moment", lambda record: record._replace(moment=Moment(99))),
    ("fact", lambda record: record._replace(fact=3)),
    ("run", lambda record: record._replace(run=OTHER)),
    ("writer", lambda record: record._replace(writer="somebody")),
    ("generation", lambda record: record._replace(generation=1)),
    ("incarnation", lambda record: record._replace(incarnation=0)),
    ("time", lambda record: record._replace(time=TEN[0].time - timedelta(seconds=1))),
    ("epoch", lambda record: record._replace(epoch=-1)),
    ("step", lambda record: record._replace(step=-1)),
    ("chain", lambda record: record._replace(chain=None)),
]


@pytest.mark.parametrize(("field", "change"), BAD)
def test_a_record_that_does_not_follow_is_refused_and_the_log_goes_on(
    log: RunWriter, field: str, change: Callable[[Record], Record]
) -> None:
    log.append(TEN[:2])
    with pytest.raises(RuleError, match=f"expected {field} "):
        log.append((TEN[2], change(TEN[3])))
    assert everything(log) == TEN[:2]
    log.append(TEN[2:])
    assert everything(log) == TEN


def test_a_fact_without_its_number_is_refused(log: RunWriter) -> None:
    log.append(TEN[:2])
    with pytest.raises(RuleError, match="expected fact 2, got None"):
        log.append((TEN[2]._replace(fact=None),))


def test_a_record_already_there_is_refused(log: RunWriter) -> None:
    log.append(TEN)
    with pytest.raises(RuleError, match=r"expected sequence 3, got 1"):
        log.append(TEN[:1])


def test_heads_say_how_every_topic_ends(log: RunWriter) -> None:
    log.append(TEN)
    heads = log.heads()
    assert {name: (head.sequence, head.chain) for name, head in heads.topics.items()} == {
        record.topic: (record.sequence, record.chain) for record in TEN
    }
    assert (heads.moment, heads.fact, heads.time) == (9, 4, TEN[-1].time)


def test_moving_a_copy_of_the_heads_leaves_the_log_alone(log: RunWriter) -> None:
    log.append(TEN[:9])
    log.heads().follow(TEN[9])
    assert log.heads().moment == TEN[8].moment


def test_nothing_is_appended_to_a_sealed_log(log: RunWriter) -> None:
    log.append(TEN)
    assert log.seal()
    with pytest.raises(LogError):
        log.append(MANY[10:])
    assert log.read().records == TEN


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"run.sqlite": -1}', '{"run.sqlite": "1"}', '{"run.sqlite": true}'])
def test_a_text_that_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="log position"):
        Position.from_text(text)
