"""A run shown as it goes on: as a panel that is drawn again and again on a terminal, as a transcript elsewhere.

The live display of a training is a thread that follows the run's log with a reader of its own. It shows what is on disk, takes nothing
from the trainer, and costs a training nothing but the drawing. An error here ends the display with a line on standard error; it never
ends the training.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.text import Text

from esper.cli.decisions_and_refusals import decision_table, is_adaptation
from esper.cli.output import Output
from esper.cli.panel import first_metrics, panel
from esper.cli.text import hanging, learning_rate, one_line, rounded, separated, short_id
from esper.events.codec import decode_as
from esper.events.envelope import Record, RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.run import RunFinished, RunStarted
from esper.folds.transitions import LIVE
from esper.history.run_history import PAGE, FoldedRun
from esper.oona.contract import Log
from esper.oona.directory import Directory
from esper.stderr import warn
from esper.words import plural

# Four frames a second: a panel takes a few milliseconds to draw, which are taken from the training's own process.
_REDRAW_S = 0.25
_WAIT_S = 0.1
_LONG_RUN = 30


def transcript(record: Record, folded: FoldedRun, width: int, *, sparse: bool = False, stages: bool = True) -> Iterator[RenderableType]:
    """The lines of `record`, the last one that `folded` took. `sparse`: every tenth epoch of a long run; `stages`: transitions too."""
    timeline = folded.timeline
    if record.type == RunStarted.KIND:
        yield _started(folded)
    elif record.type == EpochCompleted.KIND:
        planned = None if timeline.started is None else timeline.started.epochs
        if record.epoch == 1 or record.epoch % 10 == 0 or not sparse or (planned is not None and planned <= _LONG_RUN):
            yield _epoch(folded)
    elif record.type == SeedTransitioned.KIND and stages:
        event = decode_as(record, SeedTransitioned)
        seed = f"{event.site} s{event.seed} {event.blueprint or ''}".rstrip()
        yield Text(f"{record.epoch:>4}  {seed}  {event.from_stage.value} → {event.to_stage.value}", style="cyan")
    if timeline.settled is not None and is_adaptation(timeline.settled):
        yield decision_table([timeline.settled], width)
    if timeline.noted is not None:
        yield hanging(f"{record.epoch:>4}  ", timeline.noted.text, style="yellow")


def _started(folded: FoldedRun) -> RenderableType:
    run = folded.timeline.started
    assert run is not None
    epochs = "a stream of epochs" if run.epochs is None else plural(run.epochs, "epoch")
    grows = f"{plural(len(run.sites), 'site')}, {plural(sum(site.slots for site in run.sites), 'slot')}"
    name = f"run {short_id(folded.run)} ({folded.run})"
    return separated((name, run.task, f"rng {run.rng_seed}", epochs, plural(run.parameters, "parameter"), grows))


def _epoch(folded: FoldedRun) -> RenderableType:
    completed = folded.timeline.completed
    assert completed is not None
    system = completed.system
    of = "" if system.epochs_planned is None else f"/{system.epochs_planned}"
    return one_line(
        f"{system.epoch:>4}{of}  train {rounded(system.train_loss)}",
        f"valid {rounded(system.validation_loss)}",
        *([] if system.best_loss is None else [f"best {rounded(system.best_loss)} @{system.best_epoch}"]),
        *first_metrics(system.validation_metrics),
        f"{sum(system.stages[stage] for stage in system.stages if stage in LIVE)} live",
        plural(system.parameters, "parameter"),
        *(f"lr {learning_rate(value)}" for value in completed.learning_rates[:1]),
    )


class Screen:
    """The panel of a run on a terminal, drawn again at most every `redraw_s` while the context `live` lasts; the last one stays."""

    def __init__(self, out: Output, redraw_s: float) -> None:
        self.live = Live(console=out.console, auto_refresh=False, vertical_overflow="crop")
        self._width, self._redraw_s, self._drawn = out.width, redraw_s, 0.0

    def show(self, folded: FoldedRun, *, at_once: bool = False) -> None:
        """Draws `folded`; `at_once` also if the last panel was drawn just before."""
        if at_once or time.monotonic() - self._drawn >= self._redraw_s:
            self.live.update(Constrain(panel(folded, self._width), self._width), refresh=True)
            self._drawn = time.monotonic()


@contextmanager
def live_display(directory: Directory, run: RunId, out: Output) -> Iterator[None]:
    """Within, `run` is shown while it is trained: as a panel on a terminal, elsewhere as a transcript.

    It may be entered before the run's log exists. Records that the log held before are not in the transcript.
    """
    stop = threading.Event()
    known = directory.entry(run) is not None

    def show() -> None:
        # The thread's outermost line.
        try:
            _show(directory, FoldedRun(run), out, stop, known=known)
        except BrokenPipeError:
            return
        except Exception as error:
            warn(f"the display has ended, training goes on: {error}")

    thread = threading.Thread(target=show, name="live display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show(directory: Directory, folded: FoldedRun, out: Output, stop: threading.Event, *, known: bool) -> None:
    """Shows the run until `stop` is set and everything that was on disk then is shown; `known`: its log existed before."""
    stopping = False
    while directory.entry(folded.run) is None:
        if stopping:
            return
        stopping = stop.wait(_WAIT_S)
    with directory.open(folded.run) as log:
        while known and folded.read(log):
            pass
        if out.interactive:
            screen = Screen(out, _REDRAW_S)
            with screen.live:
                for _ in _pages(log, folded, stop, PAGE):
                    screen.show(folded)
                screen.show(folded, at_once=True)
            return
        # One record at a time: a line shows the run as it stood then.
        for records in _pages(log, folded, stop, 1):
            for record in records:
                out.print(*transcript(record, folded, out.width, sparse=True, stages=False))
            out.flush()


def _pages(log: Log, folded: FoldedRun, stop: threading.Event, limit: int) -> Iterator[tuple[Record, ...]]:
    """Pages as they are written, until `stop` is set and nothing is left, or the run has finished."""
    while True:
        stopping = stop.is_set()
        records = folded.read(log, limit)
        yield records
        # After RunFinished the writer needs the file for itself, to seal it: it is not read again.
        if isinstance(folded.state.end, RunFinished) or (stopping and not records):
            return
        if not records and folded.position is not None:
            log.wait(folded.position, _WAIT_S)
