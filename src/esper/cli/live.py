"""The live display of a training: a thread that follows the run's log with a reader of its own, folds it, and draws it.

It takes nothing from the trainer: it shows what is on disk, and costs a training nothing but the drawing. An error here ends the display
with a line on standard error; it never ends the training.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.constrain import Constrain
from rich.live import Live

from esper.cli.output import Output
from esper.cli.panel import panel
from esper.cli.transcript import transcript
from esper.events.envelope import Record, RunId
from esper.events.kinds.run import RunFinished
from esper.history.view import PAGE, Reading
from esper.oona.contract import Log
from esper.oona.directory import Directory

# Four frames a second: a panel takes a few milliseconds to draw, which are taken from the training's own process.
_REDRAW_S = 0.25
_WAIT_S = 0.1


class Screen:
    """The panel of a run on a terminal, drawn again at most every `redraw_s`; the last one stays."""

    def __init__(self, out: Output, live: Live, redraw_s: float) -> None:
        self._out, self._live, self._redraw_s, self._drawn = out, live, redraw_s, 0.0

    def show(self, reading: Reading, *, at_once: bool = False) -> None:
        """Draws `reading`; `at_once` also if the last panel was drawn just before."""
        if at_once or time.monotonic() - self._drawn >= self._redraw_s:
            self._live.update(Constrain(panel(reading, self._out.width), self._out.width), refresh=True)
            self._drawn = time.monotonic()


@contextmanager
def screen(out: Output, redraw_s: float) -> Iterator[Screen]:
    """A screen for as long as the context lasts."""
    with Live(console=out.console, auto_refresh=False, vertical_overflow="crop") as live:
        yield Screen(out, live, redraw_s)


@contextmanager
def live_display(directory: Directory, run: RunId, out: Output | None = None) -> Iterator[None]:
    """Within, `run` is shown while it is trained: as a panel on a terminal, elsewhere as a transcript.

    It may be entered before the run's log exists. Records that the log held before are not in the transcript.
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
                self._write(log)

    def _draw(self, log: Log) -> None:
        with screen(self._out, _REDRAW_S) as drawn:
            for _ in self._pages(log, PAGE):
                drawn.show(self._reading)
            drawn.show(self._reading, at_once=True)

    def _write(self, log: Log) -> None:
        # One record at a time: a line shows the run as it stood then.
        for records in self._pages(log, 1):
            for record in records:
                self._out.print(*transcript(record, self._reading, self._out.width, sparse=True, stages=False))
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
