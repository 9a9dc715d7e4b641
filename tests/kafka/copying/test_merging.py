"""Records of several topics come together in the order of the log, however they are read."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import DataError
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.kafka.copying.merging import RowMerge

TOPICS = ("a", "b", "c")
ROWS = 30


def record(row: int, topic: str = "a", data: bytes = b"{}") -> Record:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return Record(EventId(f"r/{row}"), RunId("r"), topic, "trainer", row, None, Moment(row), 0, 1, "t", time, 0, 0, None, None, b"", data)


@st.composite
def readings(draw: st.DrawFn) -> list[tuple[dict[str, list[int]], list[str]]]:
    """Rows by topic; and for each life of a reader, the topics in the order in which it reads one record of each."""
    topic_of = [draw(st.sampled_from(TOPICS)) for _ in range(ROWS)]
    queues = {topic: [row for row, one in enumerate(topic_of, start=1) if one == topic] for topic in TOPICS}
    lives = draw(st.lists(st.lists(st.sampled_from(TOPICS), max_size=40), max_size=4))
    return [(queues, life) for life in [*lives, [topic for topic in TOPICS for _ in range(ROWS)]]]


@given(readings())
def test_any_interleaving_and_any_restart_at_the_saved_offsets_writes_each_row_once_in_order(
    lives: list[tuple[dict[str, list[int]], list[str]]],
) -> None:
    written: list[int] = []
    saved = dict.fromkeys(TOPICS, 0)
    for queues, order in lives:
        merge, at = RowMerge(len(written)), dict(saved)
        for topic in order:
            if at[topic] < len(queues[topic]):
                row = queues[topic][at[topic]]
                merge.take(row, at[topic], record(row, topic))
                at[topic] += 1
                written += [row for row, _ in merge.ready()]
        saved = at | dict(merge.offsets())
    assert written == list(range(1, ROWS + 1))


def test_a_row_that_waits_or_was_written_is_taken_once() -> None:
    merge = RowMerge(2)
    assert merge.take(4, 10, record(4))
    assert merge.take(4, 20, record(4))
    assert not merge.take(2, 30, record(2))
    assert (len(merge), merge.offsets()) == (1, {"a": 10})
    assert merge.size_bytes == len(b"{}")


def test_another_record_in_a_row_that_waits_is_an_error() -> None:
    merge = RowMerge(0)
    merge.take(2, 1, record(2))
    with pytest.raises(DataError, match=r"run r, row 2: expected a, sequence 2, got another record in its place"):
        merge.take(2, 2, record(2, data=b'{"forged":1}'))


def test_missing_rows_are_passed_over_only_as_far_as_is_known() -> None:
    merge = RowMerge(0)
    for row in (3, 4, 8, 12):
        merge.take(row, row, record(row))
    assert list(merge.ready()) == []
    assert [row for row, _ in merge.ready(gone_to=8)] == [3, 4, 8]
    assert (merge.last, merge.lowest, merge.highest) == (8, 12, 12)
