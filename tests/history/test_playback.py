"""A run told again from its log."""

import pytest

from esper.errors import RuleError
from esper.history.playback import PAUSE_LIMIT_S, Replay
from esper.history.run_history import History
from tests.synthetic import EPOCHS


def awake(_seconds: float) -> None:
    """Waits for nothing."""


def test_every_record_is_told_once_in_order(history: History) -> None:
    told = [frame.record for frame in Replay(history, awake).frames()]
    assert told == list(history.records())


def test_each_epoch_s_digest_is_the_one_of_the_state_at_that_epoch(history: History) -> None:
    replay = Replay(history, awake, digests=True)
    over = [frame.over for frame in replay.frames() if frame.over is not None]
    assert [one.epoch for one in over] == list(range(1, EPOCHS))
    for one in (*over, replay.final()):
        assert one.digest == history.digest(one.moment)
        assert history.at(epoch=one.epoch).moment == one.moment


def test_the_last_digest_is_the_one_of_the_whole_run(history: History) -> None:
    replay = Replay(history, awake, digests=True)
    assert len(list(replay.frames())) == 233
    assert replay.final() == (EPOCHS, 233, history.digest(), True)


def test_what_came_before_the_first_moment_is_folded_and_not_told(history: History) -> None:
    replay = Replay(history, awake, first=100, last=110)
    moments = [frame.record.moment for frame in replay.frames()]
    assert moments == list(range(100, 111))
    assert replay.folded.state == history.at(moment=110)


def test_a_replay_that_stops_in_an_epoch_says_that_it_is_not_over(history: History) -> None:
    replay = Replay(history, awake, last=31)
    assert [frame.record.moment for frame in replay.frames()][-1] == 31
    assert (replay.final().epoch, replay.final().over) == (4, False)


def test_telemetry_of_the_next_epoch_does_not_open_the_last_again(history: History) -> None:
    replay = Replay(history, awake, last=30)
    assert [frame.record.epoch for frame in replay.frames()][-1] == 4
    assert (replay.final().epoch, replay.final().over) == (3, True)


def test_speed_divides_the_run_s_own_time(history: History) -> None:
    slept: list[float] = []
    records = list(history.records())
    lasted = (records[-1].time - records[0].time).total_seconds()
    for _ in Replay(history, slept.append, speed=10.0).frames():
        pass
    assert sum(slept) == pytest.approx(lasted / 10)


def test_without_a_speed_nothing_waits(history: History) -> None:
    slept: list[float] = []
    for _ in Replay(history, slept.append).frames():
        pass
    assert slept == []


def test_a_pause_in_the_run_is_cut_short(history: History) -> None:
    slept: list[float] = []
    for _ in Replay(history, slept.append, speed=1e-3, first=1, last=2).frames():
        pass
    assert slept == [pytest.approx(0.025 / 1e-3)]
    assert PAUSE_LIMIT_S > 0.025


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (0, None, "expected --from to be a moment from 1 to 233, got 0"),
        (234, None, "expected --from to be a moment from 1 to 233, got 234"),
        (None, 999, "expected --to to be a moment from 1 to 233, got 999"),
        (20, 10, "expected --from at or before --to, got 20 and 10"),
    ],
)
def test_moments_outside_the_run_are_refused(history: History, first: int | None, last: int | None, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        Replay(history, awake, first=first, last=last)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_speed_that_is_none_is_refused(history: History, speed: float) -> None:
    with pytest.raises(RuleError, match="expected a speed above 0"):
        Replay(history, awake, speed=speed)
