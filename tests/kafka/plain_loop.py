"""What must be on Kafka, and beside a run that was observed: a plain loop's records and states, and the differences from it.

A host's own records (it started, a run fell silent or went on, a topic is no longer blocked) follow from a clock. They are taken as they
are found, each after its cause, and what is derived from them must be exact again. Left out of the comparison are only the two fields that
say whether a run is silent now.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.observability import FoldUnblocked, ObserverStarted, RunHeardAgain, RunWentSilent
from esper.events.kinds.run import StreamEnded
from esper.folds.monitoring.cell import from_bytes
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.run_monitor import RunMonitor

OWN = frozenset(kind.KIND for kind in (ObserverStarted, RunWentSilent, RunHeardAgain, FoldUnblocked))
RUN_PART, STOPPED_PART = "run", "stopped"
_NOTHING_STOPPED = b"{}"
_NOTES = 8

Logs = Mapping[RunId, tuple[Record, ...]]
States = Mapping[RunId, Mapping[str, bytes]]


@dataclass
class Verdict:
    """Differences from a plain loop. `ended`: ends of topics that are in a state; `notes`: the first differences in words.

    `wrong`: records that follow from nothing or have other bytes, and states that differ. `missing`: records, and ends of topics.
    """

    derived: int = 0
    ended: int = 0
    wrong: int = 0
    missing: int = 0
    duplicates: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """True where nothing differs."""
        return not (self.wrong or self.missing or self.duplicates)

    def note(self, text: str) -> None:
        """Keeps `text` if it is one of the first."""
        if len(self.notes) < _NOTES:
            self.notes.append(text)


def judge(logs: Logs, settings: MonitorSettings, found: Iterable[Record], states: States) -> Verdict:
    """Compares the derived records that were found, in their order, and the saved states, by run and part, with a plain loop's."""
    records = list(found)
    verdict = Verdict(derived=len(records))
    for identity, count in Counter(record.id for record in records).items():
        if count > 1:
            verdict.duplicates += count - 1
            verdict.note(f"{identity} is there {count} times")
    by_id = {record.id: record for record in records}
    wanted: dict[EventId, Record] = {}
    for run, log in logs.items():
        own = [record for record in by_id.values() if record.run == run and record.type in OWN]
        _judge_own(run, own, verdict)
        monitor, derived = folded(run, log, settings, own)
        wanted |= derived | {record.id: record for record in own}
        _judge_state(run, log, monitor, states.get(run, {}), verdict)
    for identity in wanted.keys() - by_id.keys():
        verdict.missing += 1
        verdict.note(f"{wanted[identity].type} {identity} of run {wanted[identity].run} is missing")
    for identity, record in by_id.items():
        if record != wanted.get(identity):
            verdict.wrong += 1
            verdict.note(
                f"{record.type} {identity} of run {record.run} {'has other bytes' if identity in wanted else 'follows from nothing'}"
            )
    return verdict


def folded(
    run: RunId, log: Iterable[Record], settings: MonitorSettings, own: Iterable[Record] = ()
) -> tuple[RunMonitor, dict[EventId, Record]]:
    """The monitor after `log`, and everything that it derived, by id."""
    monitor, derived = RunMonitor(run, settings), dict[EventId, Record]()
    by_cause: dict[EventId | None, list[Record]] = {}
    for one in own:
        by_cause.setdefault(one.cause, []).append(one)
    for record in (*by_cause.pop(None, ()), *(one for cause in log for one in (cause, *by_cause.pop(cause.id, ())))):
        derived |= {made.id: made for made in monitor.take(record)}
    return monitor, derived


def _judge_own(run: RunId, own: Iterable[Record], verdict: Verdict) -> None:
    """A run falls silent and goes on in turns."""
    silences = [record.type for record in own if record.type in {RunWentSilent.KIND, RunHeardAgain.KIND}]
    if silences != [(RunWentSilent, RunHeardAgain)[number % 2].KIND for number in range(len(silences))]:
        verdict.wrong += 1
        verdict.note(f"run {run}: silences do not take turns: {silences}")


def _judge_state(run: RunId, log: Iterable[Record], monitor: RunMonitor, parts: Mapping[str, bytes], verdict: Verdict) -> None:
    if parts.get(STOPPED_PART, _NOTHING_STOPPED) != _NOTHING_STOPPED:
        verdict.wrong += 1
        verdict.note(f"run {run}: topics stopped: {parts[STOPPED_PART]!r}")
    wanted = monitor.save()
    for name in wanted.keys() | parts.keys() - {STOPPED_PART}:
        if _comparable(name, wanted.get(name)) != _comparable(name, parts.get(name)):
            verdict.wrong += 1
            verdict.note(f"run {run}: the state of {name} differs: expected {wanted.get(name)!r:.300}, got {parts.get(name)!r:.300}")
    ends = {record.topic: record.sequence for record in log if record.type == StreamEnded.KIND}
    for topic, sequence in ends.items():
        if topic in parts and from_bytes(parts[topic]).admission.sequence >= (sequence or 0):
            verdict.ended += 1
        else:
            verdict.missing += 1
            verdict.note(f"run {run}: the end of {topic} is not in its state")


def _comparable(name: str, part: bytes | None) -> object:
    """A saved part; of the run's own part all but whether it is silent now."""
    if name != RUN_PART or part is None:
        return part
    silence, *rest = json.loads(part)
    return {key: value for key, value in silence.items() if key not in {"silent", "spoke"}}, rest
