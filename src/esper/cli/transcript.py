"""A run as a transcript, record by record, for pipes, files and terminals that scroll."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from esper.cli.decisions import decision_table, is_adaptation
from esper.cli.panel import first_metrics
from esper.cli.text import hanging, learning_rate, number, one_line, plural, separated, short_id
from esper.events.codec import decode_as
from esper.events.envelope import Record
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.run import RunStarted
from esper.folds.transitions import LIVE
from esper.history.view import Reading

_LONG_RUN = 30


def transcript(record: Record, reading: Reading, width: int, *, sparse: bool = False, stages: bool = True) -> Iterator[RenderableType]:
    """The lines of `record`, the last one that `reading` took. `sparse`: every tenth epoch of a long run; `stages`: transitions too."""
    timeline = reading.timeline
    if record.type == RunStarted.KIND:
        yield _started(reading)
    elif record.type == EpochCompleted.KIND:
        planned = None if timeline.started is None else timeline.started.epochs
        if record.epoch == 1 or record.epoch % 10 == 0 or not sparse or (planned is not None and planned <= _LONG_RUN):
            yield _epoch(reading)
    elif record.type == SeedTransitioned.KIND and stages:
        event = decode_as(record, SeedTransitioned)
        seed = f"{event.site} s{event.seed} {event.blueprint or ''}".rstrip()
        yield Text(f"{record.epoch:>4}  {seed}  {event.from_stage.value} → {event.to_stage.value}", style="cyan")
    if timeline.settled is not None and is_adaptation(timeline.settled):
        yield decision_table([timeline.settled], width)
    if timeline.noted is not None:
        yield hanging(f"{record.epoch:>4}  ", timeline.noted.text, style="yellow")


def _started(reading: Reading) -> RenderableType:
    run = reading.timeline.started
    assert run is not None
    epochs = "a stream of epochs" if run.epochs is None else plural(run.epochs, "epoch")
    grows = f"{plural(len(run.sites), 'site')}, {plural(sum(site.slots for site in run.sites), 'slot')}"
    name = f"run {short_id(reading.run)} ({reading.run})"
    return separated((name, run.task, f"rng {run.rng_seed}", epochs, plural(run.parameters, "parameter"), grows))


def _epoch(reading: Reading) -> Text:
    completed = reading.timeline.completed
    assert completed is not None
    system = completed.system
    of = "" if system.epochs_planned is None else f"/{system.epochs_planned}"
    return one_line(
        f"{system.epoch:>4}{of}  train {number(system.train_loss)}",
        f"valid {number(system.validation_loss)}",
        *([] if system.best_loss is None else [f"best {number(system.best_loss)} @{system.best_epoch}"]),
        *first_metrics(system.validation_metrics),
        plural(system.parameters, "parameter"),
        f"{sum(system.stages[stage] for stage in system.stages if stage in LIVE)} live",
        *(f"lr {learning_rate(value)}" for value in completed.learning_rates[:1]),
    )
