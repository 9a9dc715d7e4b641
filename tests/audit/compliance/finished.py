"""Finished runs with everything that may stand beside their records: checkpoints, what an observer derived, and whom the alerts reached."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertFiring, AlertNotified, AlertResolved
from esper.observer.delivery.outbox import AlertOutcome
from esper.observer.observing import Observer
from esper.oona.directory import Directory
from tests.observer.observed_runs import SETTINGS, problems, read
from tests.synthetic import write_run
from tests.synthetic.numbers import checkpoint_files

SAVED, KEPT = (0, 4, 8, 12), (8, 12)
"""The epochs after which the synthetic run saves checkpoints, and those of which it keeps them to its end."""


@contextmanager
def memory() -> Iterator[Path]:
    """A folder for as long as it is needed, in memory where there is one: many runs commit a lot."""
    place = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="esper-", dir=place if place.is_dir() else None) as folder:
        yield Path(folder)


def run_number(number: int) -> RunId:
    """The id of one of many runs."""
    return RunId(f"019ca945-0a00-7000-8000-{number:012x}")


def write_finished(directory: Directory, count: int = 1) -> list[RunId]:
    """Writes the synthetic run `count` times into `directory`, whole, each under an id of its own."""
    runs = [run_number(number) for number in range(1, count + 1)]
    for run in runs:
        write_run(directory, run=run)
        save_checkpoints(directory, run)
    observe(directory, runs)
    return runs


def save_checkpoints(directory: Directory, run: RunId, epochs: Sequence[int] = KEPT) -> None:
    """Puts the files of the checkpoints after `epochs` into the run's folder."""
    for epoch in epochs:
        folder = directory.checkpoints(run) / f"epoch-{epoch:06d}"
        folder.mkdir(parents=True)
        for name, content in checkpoint_files(epoch).items():
            (folder / name).write_bytes(content)


def observe(directory: Directory, runs: Sequence[RunId]) -> None:
    """Derives what follows from `runs` a moment after their end; `team` gets each alert, `page` none."""
    with directory.open(runs[0]) as log:
        now = log.last()[0].time + timedelta(seconds=1)
    with Observer(directory, SETTINGS, now=lambda: now, from_start=True, report=problems.append) as observer:
        while observer.turn(0.0):
            pass
        for run in runs:
            observer.record([outcome for alert in read(directory, run) for outcome in _outcomes(alert)])


def _outcomes(alert: Record) -> tuple[AlertOutcome, ...]:
    event = decode(alert)
    if not isinstance(event, AlertFiring | AlertResolved):
        return ()
    told = AlertNotified(
        alert=alert.id, fingerprint=event.fingerprint, since=event.since, handler="team", outcome="delivered", attempts=1, error=None
    )
    failed = told.model_copy(update={"handler": "page", "outcome": "failed", "error": "nobody answers"})
    return AlertOutcome(alert, told), AlertOutcome(alert, failed)
