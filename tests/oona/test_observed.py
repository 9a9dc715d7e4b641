"""What an observer keeps beside a run: written once, saved with its position, readable at any time."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.envelope import EventId, Moment, Record, RunId
from esper.oona.contract import Position
from esper.oona.observed import Observed, end_of_observed, is_settled, read_observed

RUN = RunId("run")
THERE = Position((("run.sqlite", 7),))


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
