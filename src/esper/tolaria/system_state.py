"""The SystemState of an epoch's end: everything that a policy may know, put together from host, progress and counters."""

from collections import Counter

from esper.events.kinds.epoch import Measured, SiteRow, SystemState
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.kasmina.health.meter import Health
from esper.kasmina.slots import HostSlot
from esper.tolaria.trainer_state import Place
from esper.tolaria.training import Training


def system_state(training: Training, train: Measured, validation: Measured) -> SystemState:
    """The state at the end of the present epoch. Ends the epoch's measurements of health: to be called once."""
    host, progress, counters = training.host, training.progress, training.counters
    health, ready = host.epoch_health(), ready_seeds(training)
    stages = Counter(seed.stage for seed in host.seeds.values())
    return SystemState(
        epoch=counters.epoch,
        epochs_planned=training.settings.epochs,
        train_loss=train.loss,
        train_metrics=train.metrics,
        validation_loss=validation.loss,
        validation_metrics=validation.metrics,
        validation_losses=progress.validation_losses,
        earlier_loss=progress.earlier_loss,
        best_loss=progress.best_loss,
        best_epoch=progress.best_epoch,
        epochs_since_improvement=progress.epochs_since_improvement,
        parameters=host.parameters(),
        parameters_limit=host.parameters_limit,
        germinations=counters.germinations,
        stages={stage: stages[stage] for stage in Stage},
        sites=tuple(_site(training, site.name, health.get((site.name, None), Health())) for site in host.sites),
        seeds=tuple(_seed(training, seed, health.get(place, Health()), ready=place in ready) for place, seed in sorted(host.seeds.items())),
        field_reports=counters.reports,
        gate=training.gate,
    )


def ready_seeds(training: Training) -> frozenset[Place]:
    """The seeds that have finished their stage's work at the end of the present epoch."""
    return frozenset(place for place, seed in training.host.seeds.items() if _is_ready(training, seed))


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
    return SiteRow(
        site=name,
        refused=training.counters.refused.get(name, 0),
        failed=training.counters.failed.get(name, 0),
        blueprints=training.host.affordable(name),
        effective_rank=health.effective_rank,
        gradient_pressure=health.gradient_pressure,
        activation_variance=health.activation_variance,
        gradient_variance=health.gradient_variance,
        dead_neuron_ratio=health.dead_neuron_ratio,
        avg_correlation=health.avg_correlation,
    )


def _seed(training: Training, seed: HostSlot, health: Health, *, ready: bool) -> SeedRow:
    note = training.progress.note(seed.site, seed.seed)
    evaluation = note.evaluation
    measured = {
        "ready": None if seed.stage is Stage.DORMANT else ready,
        "recovering": seed.recovering or note.kernel_failed,
        "activation_variance": health.activation_variance,
        "gradient_variance": health.gradient_variance,
        "dead_neuron_ratio": health.dead_neuron_ratio,
        "avg_correlation": health.avg_correlation,
        "health_score": health.health_score,
        "loss_at_germination": note.loss_at_germination,
        "loss_before_graft": note.loss_before_graft,
        "evaluation": evaluation,
        "evaluated": None if evaluation is None else training.evaluations[seed.site, seed.seed, evaluation.epoch],
    }
    return seed.row.model_copy(update=measured)
