"""The SystemState of an epoch's end: everything that a policy may know, put together from the host and the trainer's trainer_state."""

from collections import Counter

from esper.events.kinds.epoch import GateSettings, Measured, SiteRow, SystemState
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.kasmina.health.meter import Health
from esper.kasmina.host import Host
from esper.kasmina.slots import Slot
from esper.tolaria.trainer_state import Counters, Evaluations, Place, Rewindable, SeedNotes


def system_state(
    host: Host,
    progress: Rewindable,
    counters: Counters,
    *,
    epoch: int,
    epochs_planned: int | None,
    train: Measured,
    validation: Measured | None,
    ready: frozenset[Place],
    evaluations: Evaluations,
    gate: GateSettings,
) -> SystemState:
    """The state at the end of `epoch`, and an end to the epoch's measurements of health: to be called once.

    `ready` are the seeds that have finished what their stage is for; `evaluations` are the ids of every SeedEvaluated that is remembered.
    """
    health = host.epoch_health()
    return SystemState(
        epoch=epoch,
        epochs_planned=epochs_planned,
        train_loss=train.loss,
        train_metrics=train.metrics,
        validation_loss=None if validation is None else validation.loss,
        validation_metrics={} if validation is None else validation.metrics,
        validation_losses=progress.validation_losses,
        earlier_loss=progress.earlier_loss,
        best_loss=progress.best_loss,
        best_epoch=progress.best_epoch,
        epochs_since_improvement=progress.epochs_since_improvement,
        parameters=host.parameters(),
        parameters_limit=host.parameters_limit,
        germinations=counters.germinations,
        stages=_stages(host),
        sites=tuple(_site(host, site.name, health.sites.get(site.name, Health()), counters) for site in host.sites),
        seeds=tuple(
            _seed(seed, health.seeds.get(place, Health()), progress.note(*place), ready=place in ready, evaluations=evaluations)
            for place, seed in sorted(host.seeds.items())
        ),
        field_reports=counters.reports,
        gate=gate,
    )


def _stages(host: Host) -> dict[Stage, int]:
    counts = Counter(seed.stage for seed in host.seeds.values())
    return {stage: counts[stage] for stage in Stage}


def _site(host: Host, name: str, health: Health, counters: Counters) -> SiteRow:
    return SiteRow(
        site=name,
        refused=counters.refused.get(name, 0),
        failed=counters.failed.get(name, 0),
        blueprints=host.affordable(name),
        effective_rank=health.effective_rank,
        gradient_pressure=health.gradient_pressure,
        activation_variance=health.activation_variance,
        gradient_variance=health.gradient_variance,
        dead_neuron_ratio=health.dead_neuron_ratio,
        avg_correlation=health.avg_correlation,
    )


def _seed(seed: Slot, health: Health, note: SeedNotes, *, ready: bool, evaluations: Evaluations) -> SeedRow:
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
        "evaluated": None if evaluation is None else evaluations[seed.site, seed.seed, evaluation.epoch],
    }
    return seed.row.model_copy(update=measured)
