"""Whether a run is silent: dead when nothing comes from it any more, idle when it beats without getting on. Pure; the clock is passed in.

Whoever hosts this keeps one `SilenceState` a run, tells it of every record (`heard`), and asks now and then (`judge`), writing what comes
out as the observer's own record. A lock that is free is news only about a run that has been read to its end: look at the lock first, then
read, then ask; else a run that ended in between is called dead. A run that ended is never silent, until it is resumed; nor is one whose
streams ended, for that is how a training says that it was interrupted on purpose.

Each change is said once. What was silent for long before anybody looked is said too, with its length: whether that still concerns anybody
is decided where alerts are delivered, by the time of the record, which therefore should be the time at which the silence began to be one
(`since_s`), not the time at which it was noticed.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from esper.events.envelope import SINCE, Record
from esper.events.fields import Event, Finite, Part
from esper.events.kinds.observability import RunHeardAgain, RunWentSilent
from esper.events.kinds.run import RunFailed, RunFinished, RunResumed, RunStarted, StreamEnded
from esper.events.kinds.telemetry import Heartbeat


class SilenceSettings(Part):
    """After how long a run counts as silent."""

    dead_after_s: Annotated[Finite, Field(ge=20)] = 60.0
    """Without any record, heartbeats included: six of those are missing then. With fewer than two missing every run would seem dead."""
    idle_after_s: Annotated[Finite, Field(ge=1)] = 600.0
    """Beating, but without any other record."""


@dataclass(frozen=True, slots=True)
class SilenceState:
    """What is known of a run's liveliness: the times of its last record and of its last one that is no heartbeat, and what was said.

    `spoke`: whether a record came since. Without one nothing is heard again, whoever looks: a run whose lock is not looked at yet is no
    livelier for that, nor is one when a clock is set back.
    """

    heard_s: float | None = None
    moved_s: float | None = None
    ended: bool = False
    silent: Literal["dead", "idle"] | None = None
    spoke: bool = False


class Verdict(NamedTuple):
    """The state after a look at the clock, and what is to be recorded: nothing, mostly. `since_s`: when that became true."""

    state: SilenceState
    event: RunWentSilent | RunHeardAgain | None = None
    since_s: float | None = None


def heard(state: SilenceState, record: Record, event: Event) -> SilenceState:
    """`state` after a record of the run's own writer, which holds `event`; one that is older than others that were heard moves no time."""
    time_s = (record.time - SINCE).total_seconds()
    heard_s = time_s if state.heard_s is None else max(time_s, state.heard_s)
    if isinstance(event, Heartbeat):
        # The first beats may come before anything else is read: then the run moved when its writer says so.
        moved_s = time_s - event.idle_s if state.moved_s is None else state.moved_s
        return replace(state, heard_s=heard_s, moved_s=moved_s, spoke=True)
    ended = isinstance(event, RunFinished | RunFailed | StreamEnded) or (state.ended and not isinstance(event, RunStarted | RunResumed))
    moved_s = time_s if state.moved_s is None else max(time_s, state.moved_s)
    return replace(state, heard_s=heard_s, moved_s=moved_s, ended=ended, spoke=True)


def said(state: SilenceState, silent: Literal["dead", "idle"] | None) -> SilenceState:
    """`state` after it was said that the run is silent, or (None) that it was heard again."""
    return replace(state, silent=silent, spoke=False)


def judge(state: SilenceState, now_s: float, lock_free: bool | None, settings: SilenceSettings) -> Verdict:
    """What is to be said of the run at `now_s`, seconds since 1970. `lock_free`: None where it cannot be known, on another machine.

    A clock that runs behind the records' shows no silence. A limit on NaN is not passed: nothing is said at a time that is no number.
    """
    if state.heard_s is None or state.moved_s is None:
        return Verdict(state)
    quiet_s, still_s = max(0.0, now_s - state.heard_s), max(0.0, now_s - state.moved_s)
    dead = not state.ended and (lock_free is True or quiet_s >= settings.dead_after_s)
    idle = not state.ended and still_s >= settings.idle_after_s
    if dead and state.silent != "dead":
        since_s = now_s if quiet_s < settings.dead_after_s else state.heard_s + settings.dead_after_s
        return Verdict(said(state, "dead"), RunWentSilent(state="dead", silent_s=quiet_s), since_s)
    if idle and state.silent is None:
        since_s = state.moved_s + settings.idle_after_s
        return Verdict(said(state, "idle"), RunWentSilent(state="idle", silent_s=still_s), since_s)
    if state.silent is not None and state.spoke and not dead and not (idle and state.silent == "idle"):
        return Verdict(said(state, None), RunHeardAgain(silent_s=quiet_s), state.heard_s)
    return Verdict(state)
