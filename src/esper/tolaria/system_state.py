"""The SystemState of an epoch's end: everything that a policy may know, put together from host, progress and counters."""

from collections import Counter
from dataclasses import asdict

from esper.events.fields import Part
from esper.events.kinds.epoch import Measured, SiteRow, SystemState
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.folds.seeds import SeedKey
from esper.kasmina.health.meter import Health
from esper.kasmina.slots import HostSlot
from esper.tolaria.training import Training

_LOSSES = {"validation_losses", "earlier_loss", "best_loss", "best_epoch", "epochs_since_improvement"}


def system_state(training: Training, train: Measured, validation: Measured) -> SystemState:
    """The state at the end of the present epoch. Ends the epoch's measurements of health: to be called once."""
    host, counters = training.host, training.counters
    health, ready = host.epoch_health(), ready_seeds(training)
    stages = Counter(seed.stage for seed in host.seeds.values())
    return SystemState(
        epoch=counters.epoch,
        epochs_planned=training.settings.epochs,
        train_loss=train.loss,
        train_metrics=train.metrics,
        validation_loss=validation.loss,
        validation_metrics=validation.metrics,
        parameters=host.parameters(),
        parameters_limit=host.parameters_limit,
        germinations=counters.germinations,
        stages={stage: stages[stage] for stage in Stage},
        sites=tuple(_site(training, site.name, health.get((site.name, None), Health())) for site in host.sites),
        seeds=tuple(_seed(training, seed, health.get(place, Health()), ready=ready[place]) for place, seed in sorted(host.seeds.items())),
        field_reports=counters.reports,
        gate=training.gate,
        **training.progress.model_dump(include=_LOSSES),
    )


def ready_seeds(training: Training) -> dict[SeedKey, bool]:
    """True for the seeds that have finished their stage's work at the end of the present epoch."""
    return {place: _is_ready(training, seed) for place, seed in training.host.seeds.items()}


def _is_ready(training: Training, seed: HostSlot) -> bool:
    epoch, schedule = training.counters.epoch, training.schedule
    if seed.stage is Stage.GERMINATED:
        return training.progress.note(seed.site, seed.seed).kernel is not None
    if seed.stage is Stage.CULLED:
        return seed.embargo_until is None or epoch >= seed.embargo_until
    planned = {Stage.CANCELLED: 0, Stage.TRAINING: schedule.train_epochs, Stage.GRAFTING: schedule.graft_epochs}
    planned |= dict.fromkeys((Stage.LOADING, Stage.STABILIZATION, Stage.EVALUATING), 1)
    return seed.stage in planned and epoch - seed.since_epoch >= planned[seed.stage]


def _site(training: Training, name: str, health: Health) -> SiteRow:
    counters, blueprints = training.counters, training.host.affordable(name)
    refused, failed = counters.refused.get(name, 0), counters.failed.get(name, 0)
    frozen = training.host.frozen.get(name)
    return SiteRow(site=name, refused=refused, failed=failed, blueprints=blueprints, frozen=frozen, **_measured(health, SiteRow))


def _seed(training: Training, seed: HostSlot, health: Health, *, ready: bool) -> SeedRow:
    note = training.progress.note(seed.site, seed.seed)
    evaluation = note.evaluation
    found = _measured(health, SeedRow) | {
        "ready": None if seed.stage is Stage.DORMANT else ready,
        "recovering": seed.recovering or note.kernel_failed,
        "loss_at_germination": note.loss_at_germination,
        "loss_before_graft": note.loss_before_graft,
        "evaluation": evaluation,
        "evaluated": None if evaluation is None else training.evaluations[seed.site, seed.seed, evaluation.epoch],
    }
    return seed.row.model_copy(update=found)


def _measured(health: Health, row: type[Part]) -> dict[str, float | None]:
    """The measurements that `row` has a field for."""
    return {name: value for name, value in asdict(health).items() if name in row.model_fields}
