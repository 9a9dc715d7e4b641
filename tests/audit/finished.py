"""A finished run with everything that may stand beside its records: checkpoints, what an observer derived, and whom its alerts reached."""

from datetime import timedelta
from pathlib import Path

from esper.events.codec import decode
from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import AlertFiring, AlertNotified, AlertResolved
from esper.observer.delivery.outbox import AlertOutcome
from esper.observer.observing import Observer
from esper.oona.directory import Directory
from tests.observer.observed_runs import SETTINGS, problems, read
from tests.synthetic import RUN, write_run
from tests.synthetic.numbers import checkpoint_files

KEPT = (8, 12)
"""The epochs of the checkpoints that the synthetic run keeps."""


def write_finished(directory: Directory, run: RunId = RUN, *, tell: bool = True) -> Path:
    """Writes the synthetic run, whole, into `directory`; `tell` says whether its alerts were delivered. Returns the run's folder."""
    write_run(directory, run=run)
    save_checkpoints(directory, run)
    observe(directory, run, tell=tell)
    return directory.path / run


def save_checkpoints(directory: Directory, run: RunId = RUN) -> None:
    """Puts the files of the kept checkpoints into the run's folder."""
    for epoch in KEPT:
        folder = directory.checkpoints(run) / f"epoch-{epoch:06d}"
        folder.mkdir(parents=True)
        for name, content in checkpoint_files(epoch).items():
            (folder / name).write_bytes(content)


def observe(directory: Directory, run: RunId = RUN, *, tell: bool = True) -> None:
    """Derives what follows from the run a moment after its end; `team` gets each of its alerts, `page` none."""
    with directory.open(run) as log:
        now = log.last()[0].time + timedelta(seconds=1)
    with Observer(directory, SETTINGS, now=lambda: now, from_start=True, report=problems.append) as observer:
        observer.turn(0.0)
        if tell:
            for alert in read(directory, run):
                observer.record(_outcomes(alert))


def _outcomes(alert: Record) -> tuple[AlertOutcome, ...]:
    event = decode(alert)
    if not isinstance(event, AlertFiring | AlertResolved):
        return ()
    told = AlertNotified(
        alert=alert.id, fingerprint=event.fingerprint, since=event.since, handler="team", outcome="delivered", attempts=1, error=None
    )
    failed = told.model_copy(update={"handler": "page", "outcome": "failed", "error": "nobody answers"})
    return AlertOutcome(alert, told), AlertOutcome(alert, failed)
