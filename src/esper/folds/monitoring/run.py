"""What an observer keeps of one run: which records were admitted, the state of each watched topic, whether the run is silent, and what it
could not understand.

Nothing here reads a clock or a file. `take` is handed the run's records in the log's order and gives what follows from them; `says` makes a
record of the observer's own. A fact that cannot be understood, or that is missing, stops its topic there: `blocked` names the sequence, a
FoldBlocked says so, and a version that knows better goes on from it. Telemetry that cannot be understood is set aside whole, under
`<topic>.dead-letter`, and its stream goes on.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from esper.errors import DataError
from esper.events import topics
from esper.events.codec import decode, encode
from esper.events.digests import canonical
from esper.events.envelope import SINCE, EventId, Moment, Record, RunId, written_time
from esper.events.fields import Event
from esper.events.kinds.observability import FoldBlocked, FoldUnblocked, ObserverStarted, RunHeardAgain, RunWentSilent
from esper.folds.admit import Apply, Drop, Expired, Guard, Hole, Reason, Stream, admit
from esper.folds.monitoring import silence
from esper.folds.monitoring import topic as stream
from esper.folds.monitoring.silence import SilenceState
from esper.folds.monitoring.topic import MonitorSettings, TopicState
from esper.folds.table import Table

WRITER = "observer"
DEAD_LETTER = ".dead-letter"


class Watch:
    """One run as its observer knows it."""

    def __init__(self, run: RunId, settings: MonitorSettings) -> None:
        self.run = run
        self.settings = settings
        self.silence = SilenceState()
        self.blocked: dict[str, int] = {}
        self.unreadable = False
        self.dead_letters = 0
        self._guard = Guard.start()
        self._states: dict[str, TopicState] = {}
        self._anchor = _Anchor()

    @property
    def ended(self) -> bool:
        """True once the run said that it finished or failed, and was not resumed since."""
        return self.silence.ended

    @property
    def firing(self) -> int:
        """How many alerts of the run are firing."""
        alerts = (alert for state in self._states.values() for row in state.alerts.active.values() for alert in row.values())
        return sum(alert.firing for alert in alerts)

    def take(self, record: Record) -> tuple[Record, ...]:
        """What follows from the next record of the run's log: derived records, dead letters, or the one that says what blocks a topic."""
        return () if record.topic in self.blocked else self._taken(record, 0)

    def _taken(self, record: Record, missing: int) -> tuple[Record, ...]:
        verdict = admit(self._guard, record)
        if isinstance(verdict, Expired):
            verdict = admit(verdict.guard, record)
        if isinstance(verdict, Drop):
            return self._conflict(record, verdict)
        if isinstance(verdict, Hole):
            return self._missing(record, verdict)
        assert isinstance(verdict, Apply)
        try:
            event = decode(record)
        except DataError as error:
            return self._not_understood(record, verdict.guard, str(error))
        self._guard = verdict.guard
        if record.moment >= self._anchor.moment:  # What was blocked comes behind others that were written after it.
            self._anchor = _Anchor(id=record.id, moment=record.moment, incarnation=record.incarnation, epoch=record.epoch, step=record.step)
        self.silence = silence.heard(self.silence, record, event)
        return self._stepped(record.topic, record, event, missing)

    def says(self, event: Event, identity: EventId, time: datetime) -> tuple[Record, ...]:
        """The observer's own record of `event`, caused by the last record that was taken, and what follows from it."""
        last = self._anchor
        record = Record(
            id=identity,
            run=self.run,
            topic=event.TOPIC,
            writer=WRITER,
            sequence=None,
            fact=None,
            moment=Moment(last.moment),
            generation=1,
            incarnation=last.incarnation,
            type=event.KIND,
            time=time,
            epoch=last.epoch,
            step=last.step,
            cause=None if last.id is None else EventId(last.id),
            trace=None,
            chain=None,
            data=encode(event),
        )
        return (record, *(self._stepped(event.TOPIC, record, event) if event.TOPIC != topics.ALERTS else ()))

    def remember(self, record: Record) -> None:
        """Takes up an own record that was written before. What blocked a topic blocks it here, also where this version would understand."""
        event = decode(record)
        if isinstance(event, FoldBlocked):
            self._blocked_by(event)
        if isinstance(event, RunWentSilent | RunHeardAgain):
            self.silence = silence.said(self.silence, event.state if isinstance(event, RunWentSilent) else None)
        self._stepped(record.topic, record, event)

    def judge(self, now: datetime, *, lock_free: bool) -> tuple[RunWentSilent | RunHeardAgain, datetime] | None:
        """What the clock says of the run, and since when it is so; None where it says nothing new."""
        verdict = silence.judge(self.silence, (now - SINCE).total_seconds(), lock_free, self.settings.silence)
        self.silence = verdict.state
        if verdict.event is None or verdict.since_s is None:
            return None
        return verdict.event, datetime.fromtimestamp(verdict.since_s, tz=now.tzinfo)

    def change(self, settings: MonitorSettings, past: Iterable[Record]) -> None:
        """From the next record on `settings` hold. What was said stays said: alerts stay as they are.

        Windows, trends and detectors are as if `settings` had held from the beginning: where theirs are others they are folded again from
        `past`, the run's records from the first one on, at least to the last that was taken.
        """
        before, self.settings = self.settings, settings
        if self._anchor.id is None or _measured_by(before) == _measured_by(settings):
            return
        again = Watch(self.run, MonitorSettings(windows=settings.windows, trends=settings.trends, detectors=settings.detectors))
        for record in past:
            # What blocked a topic for the version before may not block it now; it is taken with what follows once it is unblocked.
            if record.sequence is not None and record.sequence < self.blocked.get(record.topic, sys.maxsize):
                again.take(record)
            if record.id == self._anchor.id:
                break
        for topic, made in again._states.items():
            state = self._states.get(topic) or stream.initial(topic)
            self._states[topic] = replace(state, windows=made.windows, trends=made.trends, detectors=made.detectors)

    def unblock(self) -> frozenset[str]:
        """Forgets what blocked topics, and that the run could not be read, to try again: the topics that must be taken once more."""
        blocked = frozenset(self.blocked) | ({topics.RUN} if self.unreadable else set())
        self.blocked, self.unreadable = {}, False
        return blocked

    def _stepped(self, topic: str, record: Record, event: Event, missing: int = 0) -> tuple[Record, ...]:
        if topic not in self.settings.watched and topic not in self._states:  # What is known may hold alerts of rules that are gone.
            return ()
        state = self._states.get(topic) or stream.initial(topic)
        self._states[topic], derivations = stream.step(state, record, event, self.settings, missing)
        return stream.derived(record, derivations, self.settings.settings_digest, WRITER)

    def _conflict(self, record: Record, dropped: Drop) -> tuple[Record, ...]:
        return self._block(record, dropped.what) if dropped.reason is Reason.CONFLICT else ()

    def _missing(self, record: Record, hole: Hole) -> tuple[Record, ...]:
        """A log that was read in order has no holes: what is missing is gone. Facts stop; telemetry goes on and says how much."""
        if record.fact is not None:
            return self._block(record, f"sequences {hole.from_} to {hole.to} are missing")
        self._guard = hole.guard.passed_over(record.run, record.topic)
        return self._taken(record, hole.to - hole.from_ + 1)

    def _not_understood(self, record: Record, guard: Guard, reason: str) -> tuple[Record, ...]:
        if record.fact is not None:
            return self._block(record, reason)
        self._guard = guard
        self.dead_letters += 1
        identity = EventId(hashlib.sha256(f"{WRITER}\x1f{record.id}\x1f{record.topic}".encode()).hexdigest()[:32])
        return (
            record._replace(
                id=identity,
                topic=record.topic + DEAD_LETTER,
                writer=WRITER,
                sequence=None,
                generation=record.generation + 1,
                cause=record.id,
                chain=None,
            ),
        )

    def _block(self, record: Record, reason: str) -> tuple[Record, ...]:
        assert record.sequence is not None, "only records of the run's own writer are taken"
        self.blocked[record.topic] = record.sequence
        event = FoldBlocked(topic=record.topic, sequence=record.sequence, reason=reason)
        # Its id follows from the record that blocks, not from the process that met it: met again, it is said once.
        identity = EventId(hashlib.sha256(f"{WRITER}\x1f{record.id}\x1f{record.topic}\x1f{record.sequence}".encode()).hexdigest()[:32])
        return self.says(event, identity, record.time)

    def _blocked_by(self, event: FoldBlocked) -> None:
        if event.sequence:
            self.blocked.setdefault(event.topic, event.sequence)
        else:
            self.unreadable = True

    def to_bytes(self) -> bytes:
        """All of it as JSON, to be saved with the position that it stands at."""
        kept = _Kept(
            settings=self.settings,
            streams={
                topic: _Stream(sequence=one.sequence, fingerprint=one.fingerprint.hex(), lives=one.lives, hole_to=one.hole_to)
                for (_, topic), one in self._guard.streams.items()
            },
            states=[stream.to_form(state) for _, state in sorted(self._states.items())],
            silence=self.silence,
            blocked=self.blocked,
            unreadable=self.unreadable,
            dead_letters=self.dead_letters,
            anchor=self._anchor,
        )
        return kept.model_dump_json().encode()

    def digest(self) -> str:
        """sha256 over what `to_bytes` saves: two observers that know the same of a run have the same."""
        return hashlib.sha256(canonical(json.loads(self.to_bytes()))).hexdigest()

    @classmethod
    def from_bytes(cls, run: RunId, saved: bytes) -> "Watch":
        """The watch that `to_bytes` saved, by the settings that it had. Raises DataError for anything else: then it is made again from the
        run's beginning."""
        try:
            kept = _Kept.model_validate_json(saved)
        except ValidationError as error:
            raise DataError(f"run {run}: expected an observer's saved state as this version writes it, got another") from error
        watch = cls(run, kept.settings)
        streams = {
            (run, topic): Stream(one.sequence, bytes.fromhex(one.fingerprint), one.lives, one.hole_to)
            for topic, one in kept.streams.items()
        }
        watch._guard = Guard(Table(streams.items()), Table())
        watch._states = {state.topic: state for state in map(stream.from_form, kept.states)}
        watch.silence, watch._anchor = kept.silence, kept.anchor
        watch.blocked, watch.unreadable, watch.dead_letters = dict(kept.blocked), kept.unreadable, kept.dead_letters
        return watch


def own_id(instance: str, started: datetime, counter: int) -> EventId:
    """The id of the `counter`-th record that no single record caused, of an observer `instance` that started then."""
    parts = "\x1f".join((WRITER, instance, written_time(started), str(counter)))
    return EventId(hashlib.sha256(parts.encode()).hexdigest()[:32])


def fold(watch: Watch, records: Callable[[], Iterable[Record]], own: Iterable[Record] = ()) -> None:
    """Brings `watch` up to date without deriving: what follows from `records` was derived before.

    `own` are the observer's own records about the run, as they were written: each has its effect after the record that it names as cause.
    An ObserverStarted among them is where its settings began to hold; then `records` are read from the run's first one on, once more for
    each change.
    """
    said: dict[EventId | None, list[Record]] = {}
    for record in own:
        said.setdefault(record.cause, []).append(record)

    def remember(cause: EventId | None) -> None:
        for mine in said.pop(cause, ()):
            settings = _settings_of(mine)
            if settings is not None:
                watch.change(settings, records())
            if mine.type == FoldUnblocked.KIND:
                again = watch.unblock()
                for record in records():
                    if record.topic in again:
                        watch.take(record)
                    if record.id == cause:
                        break
            watch.remember(mine)

    remember(None)
    for record in records():
        watch.take(record)
        remember(record.id)


def _settings_of(record: Record) -> MonitorSettings | None:
    """The settings that an ObserverStarted names; None for other records, and for settings that another version had."""
    event = decode(record)
    if not isinstance(event, ObserverStarted):
        return None
    try:
        return MonitorSettings.model_validate_json(json.dumps(event.settings))
    except ValidationError:
        return None


def _measured_by(settings: MonitorSettings) -> tuple[object, ...]:
    """The settings without which the state of windows, trends and detectors means nothing."""
    return settings.windows, settings.trends, settings.detectors


_CONFIG = ConfigDict(strict=True, extra="forbid")


class _Stream(BaseModel):
    model_config = _CONFIG
    sequence: int
    fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
    lives: Annotated[tuple[tuple[int, int], ...], Field(strict=False)]
    hole_to: int | None


class _Anchor(BaseModel):
    """The newest record that was taken: what the observer's own records name as their cause, and where they stand."""

    model_config = _CONFIG
    id: str | None = None
    moment: int = 0
    incarnation: int = 1
    epoch: int = 0
    step: int = 0


class _Kept(BaseModel):
    model_config = _CONFIG
    settings: MonitorSettings
    streams: dict[str, _Stream]
    states: list[JsonValue]
    silence: SilenceState
    blocked: dict[str, int]
    unreadable: bool
    dead_letters: int
    anchor: _Anchor
