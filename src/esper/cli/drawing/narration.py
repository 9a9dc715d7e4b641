"""A run told line by line, as its records come: for pipes, files and terminals that should scroll."""

from collections.abc import Iterator

from rich.text import Text

from esper.cli.drawing import decisions
from esper.cli.drawing.text import count, metric, number, rate, short
from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.run import RunStarted
from esper.folds.lifecycle import LIVE
from esper.processes.reading import Reading


class Narrator:
    """Tells what each record changed. `every`: an epoch's line for each so many epochs; `stages`: also every transition of a seed."""

    def __init__(self, width: int, every: int = 1, *, stages: bool = True) -> None:
        self._width = width
        self._every = every
        self._stages = stages

    def tell(self, record: Record, reading: Reading) -> Iterator[Text]:
        """The lines for `record`, which `reading` took last."""
        timeline = reading.timeline
        if record.type == RunStarted.KIND:
            yield started(reading)
        elif record.type == EpochCompleted.KIND and (record.epoch % self._every == 0 or record.epoch == 1):
            yield epoch(reading)
        elif record.type == SeedTransitioned.KIND and self._stages:
            yield transition(record)
        settled = timeline.settled
        if settled is not None and settled.decision.adaptation not in decisions.HOUSEKEEPING:
            yield decisions.line(settled, self._width, decisions.room_for(reading.state.sites))
        if timeline.noted is not None:
            yield Text(f"{record.epoch:>4}  {timeline.noted.text}", style="yellow")


def started(reading: Reading) -> Text:
    """What began."""
    run = reading.timeline.started
    assert run is not None
    epochs = "a stream of epochs" if run.epochs is None else f"{run.epochs} epochs"
    slots = sum(site.slots for site in run.sites)
    return Text(
        f"run {short(reading.run)} ({reading.run}) · {run.task} · rng {run.rng_seed} · {epochs} · {count(run.parameters)} parameters · "
        f"{len(run.sites)} site{'' if len(run.sites) == 1 else 's'}, {slots} slots"
    )


def epoch(reading: Reading) -> Text:
    """The epoch that was just completed."""
    completed = reading.timeline.completed
    assert completed is not None
    system = completed.system
    of = "" if system.epochs_planned is None else f"/{system.epochs_planned}"
    text = Text(f"{system.epoch:>4}{of}  train {number(system.train_loss)}  valid {number(system.validation_loss)}")
    if system.best_loss is not None:
        text.append(f"  best {number(system.best_loss)} @{system.best_epoch}")
    for name, value in list(system.validation_metrics.items())[:2]:
        text.append(f"  {metric(name, value)}")
    text.append(f"  lr {rate(completed.learning_rates[0])}" if completed.learning_rates else "")
    live = sum(system.stages[stage] for stage in system.stages if stage in LIVE)
    return text.append(f"  {count(system.parameters)} parameters, {live} live seed{'' if live == 1 else 's'}", style="dim")


def transition(record: Record) -> Text:
    """One step of a seed's life."""
    event = decode(record)
    assert isinstance(event, SeedTransitioned)
    blueprint = f" {event.blueprint}" if event.blueprint else ""
    return Text(
        f"{record.epoch:>4}  {event.site} s{event.seed}{blueprint}  {event.from_stage.value} → {event.to_stage.value}", style="cyan"
    )
