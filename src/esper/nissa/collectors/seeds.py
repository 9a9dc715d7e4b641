"""Seeds: in which stages they are, how they moved, and how healthy the newest live run's are."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from esper.events.envelope import Record
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import RunRolledBack, RunStarted
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.nissa.collectors.collector import Collector
from esper.nissa.metrics.family import Family, Sample
from esper.nissa.metrics.model import Handler, Model, Watched

_STAGES = {"stage": tuple(Stage)}
_STATISTICS = {"statistic": ("minimum", "mean", "maximum")}

SEEDS = Family("esper_seeds", "gauge", "Slots of the live runs by the stage that they are in.", _STAGES)
TRANSITIONS = Family("esper_seed_transitions_total", "counter", "Stages that seeds entered.", _STAGES)
ACTIVATIONS = Family("esper_seed_activations_total", "counter", "Seeds that began to be blended in: entries into GRAFTING.")
ERRORS = Family("esper_seed_errors_total", "counter", "Values that were not finite, as the health of seeds reports them.")
SCORE = Family(
    "esper_seed_health_score_ratio", "gauge", "Health score of the newest live run's seeds at the last measurement.", _STATISTICS
)
DEAD = Family("esper_seed_dead_neuron_ratio", "gauge", "Share of dead units over the newest live run's sites and seeds.", _STATISTICS)
LATENCY = Family("esper_seed_latency_seconds", "gauge", "Last forward of the newest live run's seeds.", _STATISTICS)
RECOVERING = Family("esper_seeds_recovering", "gauge", "Seeds of the newest live run that are disabled after a value that was not finite.")

FAMILIES = (SEEDS, TRANSITIONS, ACTIVATIONS, ERRORS, SCORE, DEAD, LATENCY, RECOVERING)


def _started(_model: Model, watched: Watched, _record: Record, event: RunStarted) -> Watched:
    slots = {(site.name, seed): Stage.DORMANT for site in event.sites for seed in range(site.slots)}
    return replace(watched, stages=slots)


def _transitioned(model: Model, watched: Watched, _record: Record, event: SeedTransitioned) -> Watched:
    model.tally.add(TRANSITIONS, event.to_stage)
    if event.to_stage is Stage.GRAFTING:
        model.tally.add(ACTIVATIONS)
    return replace(watched, stages={**watched.stages, (event.site, event.seed): event.to_stage})


def _rolled_back(_model: Model, watched: Watched, _record: Record, event: RunRolledBack) -> Watched:
    return replace(watched, stages={(row.site, row.seed): row.stage for row in event.seeds})


def _measured(model: Model, watched: Watched, _record: Record, event: SeedHealthMeasured) -> Watched:
    errors = sum(event.health.errors)
    if errors:
        model.tally.add(ERRORS, by=errors)
    return replace(watched, health=event)


HANDLERS: dict[type, Handler] = {
    RunStarted: _started,
    SeedTransitioned: _transitioned,
    RunRolledBack: _rolled_back,
    SeedHealthMeasured: _measured,
}


def collect(model: Model) -> Iterator[Sample]:
    """The samples of `FAMILIES`."""
    yield from model.samples((TRANSITIONS, ACTIVATIONS, ERRORS))
    live = model.live()
    if live:
        stages = Counter(stage for run in live for stage in run.stages.values())
        yield from (Sample(SEEDS, stages[stage], (stage,)) for stage in Stage)
    if live and live[0].health is not None:
        yield from _health(live[0].health)


def _health(event: SeedHealthMeasured) -> Iterator[Sample]:
    health = event.health
    yield from _statistics(SCORE, health.health_score)
    yield from _statistics(DEAD, health.dead_neuron_ratio)
    yield from _statistics(LATENCY, health.latency_ms, 1e-3)
    yield Sample(RECOVERING, sum(health.recovering))


def _statistics(family: Family, column: tuple[float | None, ...], unit: float = 1.0) -> Iterator[Sample]:
    known = np.array([value for value in column if value is not None], dtype=np.float64) * unit
    if known.size:
        for name, value in (("minimum", known.min()), ("mean", known.mean()), ("maximum", known.max())):
            yield Sample(family, float(value), (name,))


COLLECTOR = Collector("seeds", 1.0, FAMILIES, collect)
