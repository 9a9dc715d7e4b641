"""A run that is about no training: `machine:<name>:<date>` of the agent, `nissa:<name>:<date>` of custom metrics received by HTTP,
`audit:<name>:<date>` of the trail.

It has no epoch and no step, is hidden from lists, and a new one begins every day (UTC). The process that opens today's ends and seals those
of earlier days.
"""

import re
import socket
from collections.abc import Sequence
from contextlib import closing
from threading import Lock

from esper.errors import EsperError, LogError
from esper.events.envelope import RunId
from esper.events.fields import Event
from esper.events.kinds.accountability import TrailEvent
from esper.oona.directory import Directory
from esper.oona.file import MIRRORED_MARK, RUN_FILE, WRITER_LOCK, is_full, is_shortage
from esper.oona.heads import Draft
from esper.oona.lock import holder_of
from esper.oona.run_log import RunLog
from esper.oona.steady_clock import Clock, go_on_from
from esper.oona.writer import append_drafts

AUDIT = "audit"
"""The kind of the runs that hold the trail, and their writer."""


def _machine_name() -> str:
    """This machine's name as it stands in run ids: small letters, digits and hyphens."""
    return re.sub(r"[^0-9a-z-]+", "-", socket.gethostname().lower()).strip("-")[:48] or "machine"


class DailyRun:
    """The run of one kind on this machine, opened by the first append. For any number of threads.

    At most `instances` (up to 9) processes have one of their own at a time, numbered from 2 on. Close it, or leave it to the process's
    end: the next process that opens one of this kind ends it.
    """

    def __init__(self, directory: Directory, kind: str, writer: str, clock: Clock, *, instances: int = 1) -> None:
        self._directory = directory
        self._prefix = f"{kind}:{_machine_name()}"
        self._writer = writer
        self._clock = clock
        self._instances = instances
        number = f"(-[2-{instances}])?" if instances > 1 else ""
        self._own = re.compile(rf"{re.escape(self._prefix)}{number}:(?P<day>\d{{4}}-\d\d-\d\d)")
        self._lock = Lock()
        self._log: RunLog | None = None
        self._day = ""

    def append(self, events: Sequence[Event]) -> None:
        """Makes `events` durable, all or none, before it returns. Raises LogError."""
        with self._lock:
            try:
                self._append(self._today(), [(event.TOPIC, event) for event in events])
            except LogError:
                self._leave()  # How it ends is not known: the next append reads it.
                raise

    @property
    def records(self) -> int:
        """Number of records in today's run, as far as it was opened."""
        with self._lock:
            return 0 if self._log is None else int(self._log.heads().moment)

    def close(self) -> None:
        """Ends the stream and closes the file; today's run may go on later."""
        with self._lock:
            if self._log is not None:
                log, self._log = self._log, None
                with log:
                    self._end(log)

    def _leave(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def _append(self, log: RunLog, events: Sequence[tuple[str, Event]]) -> None:
        numbered = enumerate(events, log.heads().moment + 1)
        append_drafts(log, [Draft(event, topic, moment, 1, self._clock(), 0, 0, None, None) for moment, (topic, event) in numbered])

    def _today(self) -> RunLog:
        day = f"{self._clock():%Y-%m-%d}"
        if self._log is None or day != self._day:
            self._leave()
            self._day = day
            self._end_earlier(day)
            self._log = self._opened(day)
            go_on_from(self._clock, self._log.heads().time)
        return self._log

    def _opened(self, day: str) -> RunLog:
        for instance in range(1, self._instances + 1):
            run = RunId(f"{self._prefix}{'' if instance == 1 else f'-{instance}'}:{day}")
            try:
                exists = (self._directory.path / run / RUN_FILE).exists()
                return self._directory.resume(run) if exists else self._directory.create(run, self._writer)
            except LogError as error:
                if instance == self._instances or is_full(error) or is_shortage(error):
                    raise
        raise AssertionError("at least one instance is tried")

    def _end_earlier(self, day: str) -> None:
        """Ends and seals the runs of earlier days that no process writes. One that cannot be sealed is left as it is."""
        for run in self._directory.names(hidden=True):
            own = self._own.fullmatch(run)
            entry = self._directory.entry(run) if own is not None and own["day"] < day else None
            if entry is None or entry.sealed or holder_of(entry.path / WRITER_LOCK) is not None:
                continue
            try:
                with self._directory.resume(run) as log:
                    self._end(log)
                    log.seal()
            except EsperError:
                continue

    def _end(self, log: RunLog) -> None:
        self._append(log, [(name, event) for name, _, event in log.heads().stream_ends()])


def append_to_trail(directory: Directory, events: Sequence[TrailEvent], clock: Clock) -> None:
    """Makes `events` durable in today's run of the trail, all or none, before it returns. Up to nine processes may do so at a time.

    Raises LogError where that fails, and for a run that is a copy from Kafka: what is said there would reach nobody else.
    """
    for event in events:
        if (directory.path / event.about / MIRRORED_MARK).exists():
            raise LogError(
                f"cannot record one {event.KIND} in {directory.path}: run {event.about} is a copy from Kafka there, and what is recorded "
                "beside it reaches nobody else; record it in the directory that the run was written in"
            )
    if events:
        with closing(DailyRun(directory, AUDIT, AUDIT, clock, instances=9)) as run:
            run.append(events)
