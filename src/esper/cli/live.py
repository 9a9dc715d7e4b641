"""The live display of a training: a thread that follows the run's log with a reader of its own, folds it, and draws what it says.

It takes nothing from the trainer, so it shows what is on disk, and a training costs the same with it and without it but for the drawing.
Whatever goes wrong here ends the display with a line on standard error; it never ends the training.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live

from esper.cli.drawing.narration import Narrator
from esper.cli.drawing.panel import panel
from esper.cli.output import Output
from esper.events.envelope import Record, RunId
from esper.events.kinds.run import RunFinished
from esper.oona.contract import Log, Position
from esper.oona.directory import Directory
from esper.processes.reading import PAGE, Reading

# Four frames a second: a panel takes a few milliseconds to draw, which are taken from the training's own process.
_REDRAW_S = 0.25
_WAIT_S = 0.1
_LONG_RUN = 30
_EVERY = 10


@contextmanager
def live_display(directory: Directory, run: RunId, out: Output | None = None) -> Iterator[None]:
    """Within, `run` is shown while it is trained: as a panel on a terminal, elsewhere line by line.

    It may be entered before the run's log exists. What was in the log already is not told again line by line.
    """
    display = _Display(directory, run, out or Output())
    thread = threading.Thread(target=display.show, name="live display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        display.stop.set()
        thread.join()


class _Display:
    def __init__(self, directory: Directory, run: RunId, out: Output) -> None:
        self.stop = threading.Event()
        self._directory, self._out = directory, out
        self._reading = Reading(run)
        self._position: Position | None = None
        self._known = self._exists()

    def show(self) -> None:
        """Shows the run until it is stopped and everything on disk then was shown. The thread's outermost line."""
        try:
            self._show()
        except BrokenPipeError:
            return
        except Exception as error:
            print(f"esper: the display has ended, training goes on: {error}", file=sys.stderr)

    def _show(self) -> None:
        while True:
            stopping = self.stop.is_set()
            if self._exists():
                break
            if stopping:
                return
            self.stop.wait(_WAIT_S)
        with self._directory.open(self._reading.run) as log:
            if self._known:
                self._skip(log)
            if self._out.interactive:
                self._draw(log)
            else:
                self._tell(log)

    def _exists(self) -> bool:
        run = self._reading.run
        return run in self._directory.names(hidden=True) and self._directory.entry(run) is not None

    def _skip(self, log: Log) -> None:
        while records := self._next(log):
            self._reading.take(records)

    def _draw(self, log: Log) -> None:
        drawn = 0.0
        with Live(console=self._out.console, auto_refresh=False, vertical_overflow="crop") as live:
            for records in self._pages(log):
                self._reading.take(records)
                if time.monotonic() - drawn >= _REDRAW_S:
                    live.update(panel(self._reading, self._out.width), refresh=True)
                    drawn = time.monotonic()
            live.update(panel(self._reading, self._out.width), refresh=True)

    def _tell(self, log: Log) -> None:
        for records in self._pages(log):
            for record in records:
                self._reading.take((record,))
                self._out.lines(self._narrator().tell(record, self._reading))
            self._out.flush()

    def _narrator(self) -> Narrator:
        started = self._reading.timeline.started
        long = started is None or started.epochs is None or started.epochs > _LONG_RUN
        return Narrator(self._out.width, _EVERY if long else 1, stages=False)

    def _pages(self, log: Log) -> Iterator[tuple[Record, ...]]:
        """Pages as they come, until the display is stopped and nothing is left, or the run has finished."""
        while True:
            stopping = self.stop.is_set()
            records = self._next(log)
            yield records
            # After RunFinished the writer wants the file to itself, to seal it: it is not touched again.
            if isinstance(self._reading.state.end, RunFinished) or (stopping and not records):
                return
            if not records and self._position is not None:
                log.wait(self._position, _WAIT_S)

    def _next(self, log: Log) -> tuple[Record, ...]:
        page = log.read(self._position, PAGE)
        self._position = page.position
        return page.records
