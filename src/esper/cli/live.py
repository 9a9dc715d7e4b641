"""The live display of a training: a thread that follows the run's log with a reader of its own, folds it, and draws what it says.

It takes nothing from the trainer, so it shows what is on disk, and a training costs the same with it and without it but for the drawing.
Whatever goes wrong here ends the display with a line on standard error; it never ends the training.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.live import Live

from esper.cli.drawing.narration import Narrator
from esper.cli.drawing.panel import panel
from esper.cli.output import Output
from esper.events.envelope import Record, RunId
from esper.events.kinds.run import RunFinished
from esper.history.view import PAGE, Reading
from esper.oona.contract import Log
from esper.oona.directory import Directory

# Four frames a second: a panel takes a few milliseconds to draw, which are taken from the training's own process.
_REDRAW_S = 0.25
_WAIT_S = 0.1


class _Show(Protocol):
    """Draws a run's panel; `at_once` also if the last one was drawn just before."""

    def __call__(self, reading: Reading, *, at_once: bool = False) -> None: ...


@contextmanager
def screen(out: Output, redraw_s: float) -> Iterator[_Show]:
    """Within, the panel stands on the terminal, drawn again at most every `redraw_s`; the last one stays."""
    drawn = 0.0
    with Live(console=out.console, auto_refresh=False, vertical_overflow="crop") as live:

        def show(reading: Reading, *, at_once: bool = False) -> None:
            nonlocal drawn
            if at_once or time.monotonic() - drawn >= redraw_s:
                live.update(panel(reading, out.width), refresh=True)
                drawn = time.monotonic()

        yield show


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
        self._known = directory.entry(run) is not None

    def show(self) -> None:
        """Shows the run until it is stopped and everything on disk then was shown. The thread's outermost line."""
        try:
            self._show()
        except BrokenPipeError:
            return
        except Exception as error:
            print(f"esper: the display has ended, training goes on: {error}", file=sys.stderr)

    def _show(self) -> None:
        stopping = False
        while self._directory.entry(self._reading.run) is None:
            if stopping:
                return
            stopping = self.stop.wait(_WAIT_S)
        with self._directory.open(self._reading.run) as log:
            while self._known and self._reading.read(log):
                pass
            if self._out.interactive:
                self._draw(log)
            else:
                self._tell(log)

    def _draw(self, log: Log) -> None:
        with screen(self._out, _REDRAW_S) as show:
            for _ in self._pages(log, PAGE):
                show(self._reading)
            show(self._reading, at_once=True)

    def _tell(self, log: Log) -> None:
        narrator = Narrator(self._out.width, sparse=True, stages=False)
        # One record at a time: a line tells the run as it stood then.
        for records in self._pages(log, 1):
            for record in records:
                self._out.lines(narrator.tell(record, self._reading))
            self._out.flush()

    def _pages(self, log: Log, limit: int) -> Iterator[tuple[Record, ...]]:
        """Pages as they come, until the display is stopped and nothing is left, or the run has finished."""
        while True:
            stopping = self.stop.is_set()
            records = self._reading.read(log, limit)
            yield records
            # After RunFinished the writer wants the file to itself, to seal it: it is not touched again.
            if isinstance(self._reading.state.end, RunFinished) or (stopping and not records):
                return
            if not records and self._reading.position is not None:
                log.wait(self._reading.position, _WAIT_S)
