"""The run in which custom metrics stand that came by HTTP: `nissa:<machine>:<date>`, a new one every day, written by this process alone."""

import re
import socket
from collections.abc import Callable, Sequence
from datetime import datetime
from threading import Lock

from esper.errors import EsperError, LogError
from esper.events.envelope import RunId
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.nissa.source import NotRecordedError
from esper.oona.appender import Item, append_items
from esper.oona.directory import Directory
from esper.oona.last_words import end_streams
from esper.oona.run_log import RunLog

WRITER = "nissa"
_INSTANCES = 9


def machine_name() -> str:
    """This machine's name as it stands in run ids: small letters, digits and hyphens."""
    return re.sub(r"[^0-9a-z-]+", "-", socket.gethostname().lower()).strip("-")[:48] or "machine"


class CustomRun:
    """Appends custom metrics, durably, from any thread. Opened by the first; closed at the end of the day or by `close`."""

    def __init__(self, directory: Directory, clock: Callable[[], datetime]) -> None:
        self._directory = directory
        self._clock = clock
        self._lock = Lock()
        self._log: RunLog | None = None
        self._day = ""

    def record(self, samples: Sequence[CustomMetricRecorded]) -> None:
        """Makes `samples` durable, all or none, before it returns. Raises NotRecordedError."""
        with self._lock:
            try:
                log = self._today()
                heads = log.heads()
                items = [self._item(heads.moment + number, sample) for number, sample in enumerate(samples, 1)]
                append_items(log, items)
            except EsperError as error:
                raise NotRecordedError("the log could not be written: nothing was recorded") from error

    def close(self) -> None:
        """Ends the stream and lets go of the file."""
        with self._lock:
            self._end()

    def _item(self, moment: int, event: CustomMetricRecorded) -> Item:
        return Item(event, event.TOPIC, moment, 1, self._clock(), 0, 0, None, None)

    def _today(self) -> RunLog:
        day = f"{self._clock():%Y-%m-%d}"
        if self._log is None or day != self._day:
            self._end()
            self._log, self._day = self._opened(day), day
        return self._log

    def _opened(self, day: str) -> RunLog:
        """Today's run; where another process of this machine writes it, one that is numbered."""
        refusal: LogError | None = None
        for instance in range(1, _INSTANCES + 1):
            name = machine_name() if instance == 1 else f"{machine_name()}-{instance}"
            run = RunId(f"{WRITER}:{name}:{day}")
            try:
                return (
                    self._directory.resume(run)
                    if (self._directory.path / run / "run.sqlite").exists()
                    else self._directory.create(run, WRITER)
                )
            except LogError as error:
                refusal = error
        raise LogError(f"expected to write one of {_INSTANCES} runs of {day}, got all of them taken") from refusal

    def _end(self) -> None:
        if self._log is None:
            return
        log, self._log = self._log, None
        try:
            for name, (epoch, step), event in end_streams(log.heads(), epoch=0, step=0):
                append_items(log, [Item(event, name, log.heads().moment + 1, 1, self._clock(), epoch, step, None, None)])
        finally:
            log.close()
