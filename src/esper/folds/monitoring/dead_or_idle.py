"""Silence of a run: dead without any record, idle with heartbeats alone. Pure; the clocks are passed in.

A host keeps one `SilenceState` a run, applies every record to it, judges it now and then, and writes the resulting event as the observer's
own record. A free lock counts only for a run that was read to its end after it: look at the lock first, then read, then judge; a run that
ended in between is not dead. A run that ended is never silent until it is resumed; nor is one whose topics ended, for it was stopped.

A host's clock may be set while it looks. So the time on a run's side (`RunTime`) passes by its monotonic clock. Its other clock gives the
age of a record only where that one does not: when a host looks at a run for the first time.

Each change is one event. A silence that began before the observer did is recorded too, at the time at which it began: delivery decides by
that time whether it is still news.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from esper.events.envelope import SINCE, Record
from esper.events.fields import Event, Finite, Part
from esper.events.kinds.observability import RunHeardAgain, RunWentSilent
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunStarted, StreamEnded
from esper.events.kinds.telemetry import Heartbeat


class RunTime(NamedTuple):
    """The time on the side of a run's records, `now_s` in seconds since 1970, when a host's monotonic clock showed `passed_s`."""

    now_s: float
    passed_s: float
    last_s: float

    @classmethod
    def at(cls, before: "RunTime | None", last_s: float, host_s: float, passed_s: float) -> "RunTime":
        """The time of a run whose last record is of `last_s`, read to its end; `before` is that of the judgement before this one.

        `host_s` is the host's clock. A record that came since is no older than the time that passed since.
        """
        if before is not None and before.last_s == last_s:
            return cls(before.now_s + passed_s - before.passed_s, passed_s, last_s)
        oldest_s = math.inf if before is None else passed_s - before.passed_s
        return cls(last_s + max(0.0, min(host_s - last_s, oldest_s)), passed_s, last_s)


class SilenceSettings(Part):
    """Limits of silence."""

    dead_after_s: Annotated[Finite, Field(ge=20)] = 60.0
    """Time without any record, heartbeats included: six of them. With less than two every run would seem dead."""
    idle_after_s: Annotated[Finite, Field(ge=1)] = 600.0
    """Time with heartbeats alone."""


@dataclass(frozen=True, slots=True)
class SilenceState:
    """The times of a run's last record and of its last one that is no heartbeat, and the silence that was recorded.

    `beaten_s`: the time of the last other record as heartbeats give it, used where no other record was applied.
    `begun_at`, `ended_at`: the latest moments at which the run was started or resumed, and at which it or one of its topics ended. Topics
    may be read in any order, so only moments show which was last. `spoke`: a record was applied since the recorded silence. Without one a
    silence does not end: a lock that was not looked at yet, or a clock that is set back, does not end it.
    """

    last_s: float | None = None
    moved_s: float | None = None
    beaten_s: float | None = None
    begun_at: int = 0
    ended_at: int = 0
    silent: Literal["dead", "idle"] | None = None
    spoke: bool = False

    @property
    def ended(self) -> bool:
        """True for a run that ended, or was stopped, and was not resumed since."""
        return self.ended_at > self.begun_at


def update_silence(state: SilenceState, record: Record, event: Event) -> SilenceState:
    """`state` after a record of the run's own writer, which holds `event`. Records of several topics may come in any order."""
    time_s = (record.time - SINCE).total_seconds()
    begun_at = record.moment if isinstance(event, RunStarted | RunResumed) else 0
    ended_at = record.moment if isinstance(event, RunFinished | RunFailed | StreamEnded) else 0
    return SilenceState(
        last_s=_later(state.last_s, time_s),
        moved_s=state.moved_s if isinstance(event, Heartbeat) else _later(state.moved_s, time_s),
        beaten_s=_later(state.beaten_s, time_s - event.idle_s) if isinstance(event, Heartbeat) else state.beaten_s,
        begun_at=max(begun_at, state.begun_at),
        ended_at=max(ended_at, state.ended_at),
        silent=state.silent,
        spoke=True,
    )


def _later(known_s: float | None, time_s: float) -> float:
    return time_s if known_s is None else max(known_s, time_s)


def judge_silence(
    state: SilenceState, now_s: float, lock_free: bool | None, settings: SilenceSettings
) -> tuple[SilenceState, tuple[RunWentSilent | RunHeardAgain, float] | None]:
    """`state` after the judgement at `now_s` (`RunTime`); the event to record and the time since which it is true, or mostly None.

    `lock_free`: None where it cannot be known, on another machine. At NaN nothing is silent.
    """
    moved_s = state.beaten_s if state.moved_s is None else state.moved_s
    if state.last_s is None or moved_s is None:
        return state, None
    quiet_s, still_s = max(0.0, now_s - state.last_s), max(0.0, now_s - moved_s)
    dead = not state.ended and (lock_free is True or quiet_s >= settings.dead_after_s)
    idle = not state.ended and still_s >= settings.idle_after_s
    if dead and state.silent != "dead":
        since_s = now_s if quiet_s < settings.dead_after_s else state.last_s + settings.dead_after_s
        return replace(state, silent="dead", spoke=False), (RunWentSilent(state="dead", silent_s=quiet_s), since_s)
    if idle and state.silent is None:
        since_s = moved_s + settings.idle_after_s
        return replace(state, silent="idle", spoke=False), (RunWentSilent(state="idle", silent_s=still_s), since_s)
    if state.silent is not None and state.spoke and not dead and not (idle and state.silent == "idle"):
        return replace(state, silent=None, spoke=False), (RunHeardAgain(silent_s=quiet_s), state.last_s)
    return state, None
