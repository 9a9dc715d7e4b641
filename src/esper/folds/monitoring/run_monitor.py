"""The monitor of one run: the cells of its topics, its silence, and the observer's own records about it.

Nothing here reads a clock or a file. The run's log is on a local disk: what is missing in it is lost, so a missing fact blocks its topic,
and missing telemetry is skipped and counted.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from esper.errors import DataError
from esper.events import topics
from esper.events.codec import decode, encode
from esper.events.digests import digest_of, to_json
from esper.events.envelope import SINCE, EventId, Moment, Record, RunId, is_training, written_time
from esper.events.fields import CONFIG, Event
from esper.events.kinds.observability import FoldBlocked, FoldUnblocked, ObserverStarted, RunHeardAgain, RunWentSilent
from esper.folds.gaps_and_duplicates import Gap
from esper.folds.monitoring.cell import (
    Applied,
    Blocked,
    Cell,
    advance,
    block,
    from_bytes,
    skip,
    to_bytes,
)
from esper.folds.monitoring.dead_or_idle import RunTime, SilenceState, judge_silence, update_silence
from esper.folds.monitoring.derive import RULE_VERSIONS, MonitorSettings

_WRITER = "observer"
SETTINGS = "settings"
"""The name of the saved part that holds the settings."""
_RUN = "run"  # The other part that is no cell; a topic's name has a dot.

_Latest = tuple[EventId | None, Moment, int, int, int]
"""Id, moment, incarnation, epoch and step of the newest applied record: the cause and the coordinates of the observer's own records."""
_SAVED_RUN = TypeAdapter(tuple[SilenceState, bool, _Latest], config=CONFIG)


class RunMonitor:
    """The state of one run's monitoring. `unreadable`: the run's file could not be read."""

    def __init__(self, run: RunId, settings: MonitorSettings) -> None:
        self.run = run
        self.settings = settings
        self.silence = SilenceState()
        self.unreadable = False
        self._cells: dict[str, Cell] = {}
        self._latest: _Latest = (None, Moment(0), 1, 0, 0)
        self._changed = {SETTINGS}
        self._time: RunTime | None = None

    @property
    def ended(self) -> bool:
        """True once the run finished, failed or was stopped, and was not resumed since."""
        return self.silence.ended

    @property
    def at_rest(self) -> bool:
        """True where no clock changes anything: the run ended or its silence is recorded as dead; and for a machine's run."""
        return self.silence.ended or self.silence.silent == "dead" or not is_training(self.run)

    @property
    def firing(self) -> int:
        """Number of the run's alerts that fire."""
        return sum(cell.state.alerts.firing for cell in self._cells.values())

    @property
    def blocked(self) -> dict[str, int]:
        """The sequence that blocks a topic, by topic."""
        return {topic: cell.blocked.sequence for topic, cell in self._cells.items() if cell.blocked is not None}

    @property
    def dead_letters(self) -> int:
        """Number of records that were set aside because they could not be decoded."""
        return sum(cell.dead_letters for cell in self._cells.values())

    def take(self, record: Record) -> tuple[Record, ...]:
        """The records derived from the next record of the run's log: derived events, a dead letter, or the FoldBlocked of its topic.

        A fold that raises changes nothing.
        """
        before = self._cells.copy(), self._latest, self.silence, self._changed.copy()
        try:
            return self._with_own(self._advance(record))
        except Exception:
            self._cells, self._latest, self.silence, self._changed = before
            raise

    def block(self, record: Record, reason: str) -> tuple[Record, ...]:
        """Stops the topic of `record` there, because a fold raises at it; its FoldBlocked, and what is derived from that."""
        cell, blocked = block(self._cells.get(record.topic) or Cell(record.topic), record, reason, _WRITER)
        self._set(cell)
        return self._with_own(blocked.derived)

    def started(self, now: datetime) -> tuple[Record, ...]:
        """The record that the run is observed from here on with the settings in force."""
        written = to_json(self.settings)
        assert isinstance(written, dict), "settings are written as an object"
        event = ObserverStarted(rules=dict(RULE_VERSIONS), settings=written, settings_digest=self.settings.settings_digest)
        return self.own_record(event, now)

    def unblocked(self, before: Iterable[str], now: datetime) -> tuple[Record, ...]:
        """The record that topics which were blocked `before` are blocked no more; none while one of the run's topics still is."""
        blocked = tuple(sorted(before))
        return self.own_record(FoldUnblocked(topics=blocked), now) if blocked and not self.blocked else ()

    def own_record(self, event: Event, time: datetime) -> tuple[Record, ...]:
        """The observer's own record of `event`, caused by the run's latest record, and what is derived from it."""
        (cause, moment, incarnation, epoch, step), data = self._latest, encode(event)
        record = Record(
            id=own_id(cause or EventId(self.run), event.KIND, time, data),  # Of what has no cause yet, the run: two runs may begin at once.
            run=self.run,
            topic=event.TOPIC,
            writer=_WRITER,
            sequence=None,
            fact=None,
            moment=moment,
            generation=1,
            incarnation=incarnation,
            type=event.KIND,
            time=time,
            epoch=epoch,
            step=step,
            cause=cause,
            trace=None,
            chain=None,
            data=data,
        )
        return (record, *self._advance(record))

    def judge_silence(self, now: datetime, passed_s: float, *, lock_free: bool | None) -> tuple[Record, ...]:
        """The record of a training's silence that began or ended by the clock, and what is derived from it; none where nothing changed.

        `passed_s` is the host's monotonic clock. Everything that stands in the log was applied.
        """
        if not is_training(self.run) or self.silence.last_s is None:
            return ()
        self._time = RunTime.at(self._time, self.silence.last_s, (now - SINCE).total_seconds(), passed_s)
        self.silence, found = judge_silence(self.silence, self._time.now_s, lock_free, self.settings.silence)
        if found is None:
            return ()
        event, since_s = found
        return self.own_record(event, datetime.fromtimestamp(since_s, tz=now.tzinfo))

    def change(self, settings: MonitorSettings, past: Iterable[Record]) -> None:
        """Puts `settings` in force from the next record on; alerts stay as they are.

        Windows, trends and detectors whose settings changed are folded again from `past`, the run's whole log at least to the latest
        record.
        """
        before, self.settings = self.settings, settings
        self._changed.add(SETTINGS)
        cause, *_ = self._latest
        if cause is None or _measuring(before) == _measuring(settings):
            return
        again = RunMonitor(self.run, _measuring(settings))
        for record in past:
            cell = self._cells.get(record.topic)
            if cell is not None and record.sequence is not None and record.sequence <= cell.admission.sequence:
                again._advance(record)
        for topic, measured in again._cells.items():
            kept, state = self._cells[topic], measured.state
            self._set(replace(kept, state=replace(kept.state, windows=state.windows, trends=state.trends, detectors=state.detectors)))

    def fold(self, records: Callable[[], Iterable[Record]], own: Iterable[Record] = ()) -> None:
        """Applies `records`, whose derived records were written before: they are not derived again.

        `own` are the observer's own records about the run, where `records` begin at the run's first: each has its effect after the record
        that is its cause. An ObserverStarted among them changes the settings, for which `records` are read once more. What blocks a topic
        in them blocks it here, also where this version could decode it: what follows was not derived.
        """
        by_cause: dict[EventId | None, list[Record]] = {}
        blocked: dict[str, FoldBlocked] = {}
        for record in own:
            by_cause.setdefault(record.cause, []).append(record)
            event = decode(record)
            if isinstance(event, FoldBlocked) and event.sequence:
                blocked[event.topic] = event
            elif isinstance(event, FoldUnblocked):
                blocked = {topic: one for topic, one in blocked.items() if topic not in event.topics}
        self._apply_own(by_cause.pop(None, ()), records)
        for record in records():
            stop = blocked.get(record.topic)
            if stop is None or record.sequence is None or record.sequence < stop.sequence:
                self._advance(record)
            elif record.sequence == stop.sequence:
                self._set(replace(self._cells.get(record.topic) or Cell(record.topic), blocked=stop))
            self._apply_own(by_cause.pop(record.id, ()), records)

    def save(self, *, whole: bool = False) -> dict[str, bytes]:
        """The parts that changed since the last call, or all, by name: a topic's cell, the run's own state, the settings."""
        changed, self._changed = self._changed | {_RUN}, set()
        return {name: self._part(name) for name in sorted({SETTINGS, _RUN, *self._cells} if whole else changed)}

    def _part(self, name: str) -> bytes:
        if name == SETTINGS:
            return self.settings.model_dump_json().encode()
        if name == _RUN:
            return _SAVED_RUN.dump_json((self.silence, self.unreadable, self._latest))
        return to_bytes(self._cells[name])

    def digest(self) -> str:
        """sha256 over all parts: monitors of the same state have the same."""
        return digest_of({name: json.loads(self._part(name)) for name in (SETTINGS, _RUN, *self._cells)})

    @classmethod
    def load(cls, run: RunId, parts: Mapping[str, bytes]) -> "RunMonitor":
        """The monitor whose parts were saved, with the settings that it had. Raises DataError for parts of another version."""
        try:
            monitor = cls(run, MonitorSettings.model_validate_json(parts[SETTINGS]))
            monitor.silence, monitor.unreadable, monitor._latest = _SAVED_RUN.validate_json(parts[_RUN])
        except (KeyError, ValidationError) as error:
            raise DataError(f"run {run}: expected an observer's saved state as this version writes it, got another") from error
        try:
            monitor._cells = {topic: from_bytes(part) for topic, part in parts.items() if topic not in {_RUN, SETTINGS}}
        except DataError as error:
            raise DataError(f"run {run}: {error}") from error
        monitor._changed = set()
        return monitor

    def _advance(self, record: Record) -> tuple[Record, ...]:
        if record.topic == topics.ALERTS:
            return ()
        cell, outcome = advance(self._cells.get(record.topic) or Cell(record.topic), record, self.settings, _WRITER)
        if isinstance(outcome, Gap) and record.topic in topics.FACTS:
            cell, outcome = block(cell, record, f"sequences {outcome.from_} to {outcome.to} are missing", _WRITER)
        elif isinstance(outcome, Gap):
            cell, outcome = advance(skip(cell), record, self.settings, _WRITER)
        self._set(cell)
        match outcome:
            case Applied(event, derived):
                if event is not None and record.sequence is not None:
                    if _is_later(record, self._latest):
                        self._latest = (record.id, record.moment, record.incarnation, record.epoch, record.step)
                    self.silence = update_silence(self.silence, record, event)
                return derived
            case Blocked(_, derived):
                return derived
            case _:
                return ()

    def _with_own(self, derived: tuple[Record, ...]) -> tuple[Record, ...]:
        """`derived`, and what is derived from those of the observers' topic among them."""
        return (*derived, *(more for one in derived if one.topic == topics.OBSERVERS for more in self._advance(one)))

    def _set(self, cell: Cell) -> None:
        if self._cells.get(cell.topic) is not cell:
            self._cells[cell.topic] = cell
            self._changed.add(cell.topic)

    def _apply_own(self, own: Iterable[Record], records: Callable[[], Iterable[Record]]) -> None:
        for record in own:
            event = decode(record)
            if isinstance(event, ObserverStarted):
                try:
                    settings = MonitorSettings.model_validate_json(json.dumps(event.settings))
                except ValidationError:
                    pass  # Settings of another version: those before stay in force.
                else:
                    self.change(settings, records())
            elif isinstance(event, FoldBlocked) and not event.sequence:
                self.unreadable = True
            elif isinstance(event, FoldUnblocked):
                self.unreadable = False
            elif isinstance(event, RunWentSilent | RunHeardAgain):
                silent = event.state if isinstance(event, RunWentSilent) else None
                self.silence = replace(self.silence, silent=silent, spoke=False)
            self._advance(record)


def _is_later(record: Record, latest: _Latest) -> bool:
    """True where `record` is newer than the latest one. Topics come in any order, and a heartbeat has the moment of another record."""
    cause, moment, *_ = latest
    return cause is None or (record.moment, len(record.id), record.id) > (moment, len(cause), cause)


def own_id(cause: EventId, kind: str, time: datetime, data: bytes) -> EventId:
    """The id of an observer's own record: a digest of its content. Observers that write the same of a run give it the same id."""
    parts = "\x1f".join((cause, kind, written_time(time)))
    return EventId(hashlib.sha256(parts.encode() + b"\x1f" + data).hexdigest()[:32])


def _measuring(settings: MonitorSettings) -> MonitorSettings:
    """The part of `settings` without which the state of windows, trends and detectors means nothing."""
    return MonitorSettings(windows=settings.windows, trends=settings.trends, detectors=settings.detectors)
