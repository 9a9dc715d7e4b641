"""Trainings for `chaos.py`: recorded once, and written again in slices into a directory that a bridge ships."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

import torch
from alert_latency import train_with_a_nan
from trainings import GROWING, QUICK, STATICS

from esper.events.envelope import Record, RunId
from esper.oona.directory import Directory
from esper.oona.run_log import RunLog
from esper.processes.recipe import Recipe, run_settings
from esper.processes.train import fresh_run_id, train

RUNS = 20
_GROWING, _NAN = 4, 2
_EPOCHS, _GROWING_EPOCHS = 15, 60
_SLICE, _PAUSE_S = 40, 0.02

Logs = Mapping[RunId, tuple[Record, ...]]


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
