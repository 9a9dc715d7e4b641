"""Which holds are in force and who signed off, from a trail in several runs."""

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from esper.errors import LogError, RuleError
from esper.events.codec import UnknownKindError
from esper.events.envelope import Moment, RunId
from esper.events.kinds.accountability import TrailEvent
from esper.events.kinds.run import RunFailed, RunFinished
from esper.events.topics import TRAIL
from esper.history.trail import end_of, holds_in_force
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.file import RUN_FILE
from esper.oona.heads import Draft
from esper.oona.writer import append_drafts
from tests.beginnings import run_started
from tests.synthetic import RUN, ticking, write_run
from tests.trails import checked, held, released, sign_offs_of, signed_off

OTHER = RunId("01900000-0000-7000-8000-000000000002")
DAY = datetime(2026, 3, 2, 12, tzinfo=UTC)
TODAY = DAY.date()


def say(directory: Directory, *events: TrailEvent, days: int = 0) -> None:
    """Appends `events` as a person does `days` after DAY, one after another."""
    clock = ticking(DAY + timedelta(days=days))
    for event in events:
        append_to_trail(directory, [event], clock)


def say_elsewhere(directory: Directory, event: TrailEvent, time: datetime, kind: str | None = None) -> None:
    """Appends `event`, written as of `kind`, at `time` to the trail of another machine."""
    with directory.create(RunId(f"audit:elsewhere:{time:%Y-%m-%d}"), "audit") as log:
        if kind is None:
            append_drafts(log, [Draft(event, TRAIL, 1, 1, time, 0, 0, None, None)])
        else:
            heads = log.heads()
            log.append((heads.next(Draft(event, TRAIL, 1, 1, time, 0, 0, None, None), kind, b"{}"),), heads)


def whys(directory: Directory, on: date = TODAY, run: RunId = RUN) -> list[str]:
    """The reasons for which `run` is held."""
    return [hold.why for _, hold in holds_in_force(directory, on).get(run, ())]


def test_a_log_without_a_trail_holds_nothing(directory: Directory) -> None:
    assert holds_in_force(directory, TODAY) == {}
    assert sign_offs_of(directory, RUN) == ()


def test_each_hold_of_a_run_is_in_force_for_itself(directory: Directory) -> None:
    say(directory, held(why="one"), held(OTHER), checked(), held(why="two"))
    assert whys(directory) == ["one", "two"]
    assert holds_in_force(directory, TODAY).keys() == {RUN, OTHER}


def test_a_hold_is_in_force_through_its_last_day(directory: Directory) -> None:
    say(directory, held(until="2026-03-05", why="for a while"), held(why="for good"))
    assert whys(directory, date(2026, 3, 5)) == ["for a while", "for good"]
    assert whys(directory, date(2026, 3, 6)) == ["for good"]


def test_a_release_ends_every_hold_of_its_run_before_it_and_none_after_it(directory: Directory) -> None:
    say(directory, held(why="one"), held(why="two"), held(OTHER), released(), held(why="three"))
    assert whys(directory) == ["three"]
    assert whys(directory, run=OTHER) == ["an inquiry"]


def test_the_trails_of_several_machines_and_days_are_one(directory: Directory) -> None:
    say(directory, held(why="here"))
    say_elsewhere(directory, released(), DAY + timedelta(hours=1))
    say(directory, held(why="here, a day later"), days=1)
    assert whys(directory) == ["here, a day later"]


def test_what_another_machine_said_before_a_hold_does_not_release_it(directory: Directory) -> None:
    say_elsewhere(directory, released(), DAY - timedelta(hours=1))
    say(directory, held())
    assert whys(directory) == ["an inquiry"]


def test_sign_offs_are_those_of_the_run_the_oldest_first(directory: Directory) -> None:
    say(directory, signed_off(note="first"), signed_off(OTHER), held(), signed_off(note="second"))
    found = sign_offs_of(directory, RUN)
    assert [event.note for _, event in found] == ["first", "second"]
    assert found[0][0].time < found[1][0].time


def test_a_trail_that_is_not_understood_releases_nothing_in_silence(directory: Directory) -> None:
    say_elsewhere(directory, held(), DAY, "esper.run.held.v9")
    with pytest.raises(UnknownKindError, match=r"run audit:elsewhere:2026-03-02, topic audit.trail, moment 1: .*esper.run.held.v9"):
        holds_in_force(directory, TODAY)


def test_a_trail_that_lacks_a_record_is_an_error(directory: Directory) -> None:
    say(directory, held(), held())
    (run,) = directory.names(hidden=True)
    with closing(sqlite3.connect(directory.path / run / RUN_FILE)) as connection, connection:
        connection.execute("DELETE FROM records WHERE row = 1")
    with pytest.raises(LogError):
        holds_in_force(directory, TODAY)


def test_a_finished_run_ended_with_its_model(synthetic_log: Path) -> None:
    record, event = end_of(Directory(synthetic_log), RUN)
    assert record.moment == 233
    assert isinstance(event, RunFinished)


def test_a_failed_run_has_ended_unless_it_goes_on(directory: Directory) -> None:
    with directory.create(RUN) as log:
        emitter = Emitter(log, RUN, clock=ticking(), heartbeat_s=1e6)
        emitter.emit(run_started(), epoch=0, step=0)
        emitter.fail("error", "the data server is gone", where="epoch 1", epoch=1, step=1)
        with pytest.raises(RuleError, match="expected a run that has finished or failed, got one that is trained now"):
            end_of(directory, RUN)
    record, event = end_of(directory, RUN)
    assert isinstance(event, RunFailed)
    assert record.moment == Moment(2)


def test_a_run_that_was_interrupted_has_not_ended(directory: Directory) -> None:
    write_run(directory, until_epoch=1, finish=False)
    with pytest.raises(RuleError, match=f"run {RUN}: expected a run that has finished or failed, got one that was interrupted"):
        end_of(directory, RUN)


def test_a_run_that_never_began_has_not_ended(directory: Directory) -> None:
    directory.create(RUN).close()
    with pytest.raises(RuleError, match="got one that never began"):
        end_of(directory, RUN)
