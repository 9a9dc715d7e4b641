"""A run told line by line, as its records come: for pipes, files and terminals that should scroll."""

from collections.abc import Iterator

from rich.text import Text

from esper.cli.drawing import decisions
from esper.cli.drawing.text import first_metrics, fitted, hanging, listed, many, number, rate, short
from esper.events.codec import decode_as
from esper.events.envelope import Record
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedTransitioned
from esper.events.kinds.run import RunStarted
from esper.folds.lifecycle import LIVE
from esper.history.view import Reading

_LONG_RUN = 30


class Narrator:
    """Tells what each record changed. `sparse`: of a long run every tenth epoch; `stages`: also every transition of a seed."""

    def __init__(self, width: int, *, sparse: bool = False, stages: bool = True) -> None:
        self._width, self._sparse, self._stages = width, sparse, stages

    def tell(self, record: Record, reading: Reading) -> Iterator[Text]:
        """The lines for `record`, which `reading` took last."""
        timeline = reading.timeline
        if record.type == RunStarted.KIND:
            yield from _started(reading, self._width)
        elif record.type == EpochCompleted.KIND and self._is_due(record.epoch, timeline.started):
            yield epoch(reading, self._width)
        elif record.type == SeedTransitioned.KIND and self._stages:
            yield _transition(record)
        settled = timeline.settled
        if settled is not None and settled.decision.adaptation not in decisions.HOUSEKEEPING:
            yield decisions.line(settled, self._width, decisions.room_for(reading.state.sites))
        if timeline.noted is not None:
            yield from (Text(line, style="yellow") for line in hanging(f"{record.epoch:>4}  ", timeline.noted.text, self._width))

    def _is_due(self, epoch: int, run: RunStarted | None) -> bool:
        long = run is None or run.epochs is None or run.epochs > _LONG_RUN
        return epoch == 1 or epoch % 10 == 0 or not (self._sparse and long)


def _started(reading: Reading, width: int) -> Iterator[Text]:
    """What began."""
    run = reading.timeline.started
    assert run is not None
    epochs = "a stream of epochs" if run.epochs is None else many(run.epochs, "epoch")
    grows = f"{many(len(run.sites), 'site')}, {many(sum(site.slots for site in run.sites), 'slot')}"
    parts = (f"run {short(reading.run)} ({reading.run})", run.task, f"rng {run.rng_seed}", epochs, many(run.parameters, "parameter"), grows)
    yield from map(Text, listed(parts, width, 0))


def epoch(reading: Reading, width: int) -> Text:
    """The epoch that was just completed; what has no room is left out."""
    completed = reading.timeline.completed
    assert completed is not None
    system = completed.system
    of = "" if system.epochs_planned is None else f"/{system.epochs_planned}"
    best = [] if system.best_loss is None else [f"best {number(system.best_loss)} @{system.best_epoch}"]
    parts = [
        f"{system.epoch:>4}{of}  train {number(system.train_loss)}",
        f"valid {number(system.validation_loss)}",
        *best,
        *first_metrics(system.validation_metrics),
        many(system.parameters, "parameter"),
        f"{sum(system.stages[stage] for stage in system.stages if stage in LIVE)} live",
        *(f"lr {rate(value)}" for value in completed.learning_rates[:1]),
    ]
    return Text(fitted(parts, width))


def _transition(record: Record) -> Text:
    """One step of a seed's life."""
    event = decode_as(record, SeedTransitioned)
    blueprint = f" {event.blueprint}" if event.blueprint else ""
    return Text(
        f"{record.epoch:>4}  {event.site} s{event.seed}{blueprint}  {event.from_stage.value} → {event.to_stage.value}", style="cyan"
    )
