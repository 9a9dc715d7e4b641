"""Trainings for `chaos.py`: recorded once, written again in slices into a directory that a bridge ships, and what must follow from them.

What must follow is a plain loop's: each run's records in the order of its log, through `RunMonitor`. A worker's own records (it started, a
run fell silent or went on) follow from a clock. They are taken as they are found, each after its cause, and everything that is derived from
them must be exact again. Left out of the comparison are only the two fields that say whether a run is silent now.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from alert_latency import train_with_a_nan
from trainings import GROWING, QUICK, STATICS

from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.observability import FoldUnblocked, ObserverStarted, RunHeardAgain, RunWentSilent
from esper.events.kinds.run import StreamEnded
from esper.folds.monitoring.cell import from_bytes
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.folds.monitoring.topic import MonitorSettings
from esper.oona.directory import Directory
from esper.oona.run_log import RunLog
from esper.processes.train import Recipe, fresh_run_id, run_settings, train

RUNS = 20
_GROWING, _NAN = 4, 2
_EPOCHS, _GROWING_EPOCHS = 15, 60
_SLICE, _PAUSE_S = 40, 0.02
_OWN = frozenset(kind.KIND for kind in (ObserverStarted, RunWentSilent, RunHeardAgain, FoldUnblocked))
_RUN_PART = "run"

Logs = Mapping[RunId, tuple[Record, ...]]
Parts = Mapping[RunId, Mapping[str, bytes]]


def recorded(folder: Path) -> Logs:
    """The records of 20 real trainings: static and growing ones, and two with a NaN. They are trained where `folder` has none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    directory = Directory(folder, create=True)
    torch.set_num_threads(1)
    makers = [*STATICS.values()]
    grows = GROWING["growing_digits"]
    for number in range(len(directory.names()), RUNS):
        if number < _NAN:
            train_with_a_nan(folder, None)
            continue
        is_growing = number < _NAN + _GROWING
        training = (grows if is_growing else makers[number % len(makers)])(number)
        epochs = _GROWING_EPOCHS if is_growing else _EPOCHS
        recipe = Recipe(
            task=f"chaos-{number}",
            model=training.model,
            optimizer=training.optimizer,
            train=training.train,
            valid=training.valid,
            objective=training.objective,
            scheduler=training.scheduler,
        )
        settings = run_settings(training.settings, QUICK, {"trainer.epochs": epochs, "trainer.rng_seed": number})
        train(recipe, settings, directory, fresh_run_id())
    return {run: _records(directory, run) for run in sorted(directory.names())}


def _records(directory: Directory, run: RunId) -> tuple[Record, ...]:
    with directory.open(run) as log:
        return log.read(limit=1_000_000).records


class Feeder(threading.Thread):
    """Writes `logs` into `directory` in slices, the runs taking turns by chance, within about `seconds`; then seals every run.

    It waits while the share in `limit` is written.
    """

    def __init__(self, directory: Directory, logs: Logs, seconds: float, rng: Random) -> None:
        super().__init__(name="feeder", daemon=True)
        self.written = 0
        self.limit = 1.0
        self.error: BaseException | None = None
        self._directory, self._logs, self._seconds, self._rng = directory, logs, seconds, rng
        self._total = sum(map(len, logs.values()))

    @property
    def progress(self) -> float:
        """The share of the records that is written. Raises where the writing failed."""
        if self.error is not None:
            raise self.error
        return self.written / self._total

    def run(self) -> None:
        """Writes."""
        try:
            self._write()
        except BaseException as error:
            self.error = error

    def _write(self) -> None:
        began_at, places = time.monotonic(), dict.fromkeys(self._logs, 0)
        writers: dict[RunId, RunLog] = {}
        while places:
            if self.progress >= self.limit:
                began_at += _PAUSE_S
                time.sleep(_PAUSE_S)
                continue
            run = self._rng.choice(sorted(places))
            if run not in writers:
                writers[run] = self._directory.create(run)
            begin, end = places[run], places[run] + self._rng.randint(1, _SLICE)
            taken = self._logs[run][begin:end]
            writers[run].append(taken)
            self.written, places[run] = self.written + len(taken), end
            if end >= len(self._logs[run]):
                del places[run]
                writer = writers.pop(run)
                writer.seal()
                writer.close()
            time.sleep(max(0.0, began_at + self._seconds * self.progress - time.monotonic()))


@dataclass
class Verdict:
    """What differs between a plain loop and Kafka. `notes`: the first differences in words."""

    derived: int = 0
    wrong: int = 0
    missing: int = 0
    duplicates: int = 0
    ended: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """True where nothing differs."""
        return not (self.wrong or self.missing or self.duplicates)

    def note(self, text: str) -> None:
        """Keeps the first notes."""
        if len(self.notes) < 8:
            self.notes.append(text)


def judge(logs: Logs, settings: MonitorSettings, found: Iterable[Record], parts: Parts) -> Verdict:
    """Compares the derived records `found` on Kafka, in their order, and the saved `parts` of each run's state with a plain loop's."""
    verdict, records = Verdict(), list(found)
    verdict.derived = len(records)
    for identity, count in Counter(record.id for record in records).items():
        if count > 1:
            verdict.duplicates += count - 1
            verdict.note(f"{identity} is there {count} times")
    by_id = {record.id: record for record in records}
    wanted: dict[EventId, Record] = {}
    for run, log in logs.items():
        own = [record for record in by_id.values() if record.run == run and record.type in _OWN]
        _judge_silence(run, own, verdict)
        monitor, derived = _folded(run, log, settings, own)
        wanted |= derived | {record.id: record for record in own}
        _judge_state(run, log, monitor, parts.get(run, {}), verdict)
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


def _folded(
    run: RunId, log: Iterable[Record], settings: MonitorSettings, own: Iterable[Record]
) -> tuple[RunMonitor, dict[EventId, Record]]:
    monitor, derived = RunMonitor(run, settings), dict[EventId, Record]()
    by_cause: dict[EventId | None, list[Record]] = {}
    for record in own:
        by_cause.setdefault(record.cause, []).append(record)
    followed = by_cause.pop(None, [])
    for record in log:
        for one in (*followed, record):
            derived |= {made.id: made for made in monitor.take(one)}
        followed = by_cause.pop(record.id, [])
    for one in followed:
        derived |= {made.id: made for made in monitor.take(one)}
    return monitor, derived


def _judge_silence(run: RunId, own: Iterable[Record], verdict: Verdict) -> None:
    """A run falls silent and goes on in turns, and its worker introduces itself once."""
    kinds = [record.type for record in own]
    silences = [kind for kind in kinds if kind in {RunWentSilent.KIND, RunHeardAgain.KIND}]
    if kinds.count(ObserverStarted.KIND) > 1 or silences != [(RunWentSilent, RunHeardAgain)[n % 2].KIND for n in range(len(silences))]:
        verdict.wrong += 1
        verdict.note(f"run {run}: own records {kinds}")


def _judge_state(run: RunId, log: Iterable[Record], monitor: RunMonitor, parts: Mapping[str, bytes], verdict: Verdict) -> None:
    wanted = monitor.save()
    stopped = parts.get("stopped", b'{"offsets":{}}')
    if stopped != b'{"offsets":{}}':
        verdict.wrong += 1
        verdict.note(f"run {run}: stopped at {stopped!r}")
    for name in wanted.keys() | parts.keys() - {"stopped"}:
        if _comparable(name, wanted.get(name)) != _comparable(name, parts.get(name)):
            verdict.wrong += 1
            verdict.note(f"run {run}: the state of {name} differs: expected {wanted.get(name)!r:.200}, got {parts.get(name)!r:.200}")
    ends = {record.topic: record.sequence for record in log if record.type == StreamEnded.KIND}
    for topic, sequence in ends.items():
        if topic in parts and from_bytes(parts[topic]).admission.sequence >= (sequence or 0):
            verdict.ended += 1
        else:
            verdict.missing += 1
            verdict.note(f"run {run}: the end of {topic} is not in its state")


def _comparable(name: str, part: bytes | None) -> object:
    """A saved part; of the run's own part all but whether it is silent now."""
    if name != _RUN_PART or part is None:
        return part
    silence, *rest = json.loads(part)
    return {key: value for key, value in silence.items() if key not in {"silent", "spoke"}}, rest
