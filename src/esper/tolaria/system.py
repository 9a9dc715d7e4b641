"""The SystemState of an epoch's end: everything that a policy may know, put together from the host and the trainer's memory."""

from collections import Counter

from esper.events.kinds.epoch import FieldReportColumns, GateSettings, Measured, SeedColumns, SiteColumns, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.kasmina.health.meter import EpochHealth, Health
from esper.kasmina.host import Host
from esper.tolaria.progress import Evaluations, Place, Progress, Tally


def system_state(
    host: Host,
    progress: Progress,
    tally: Tally,
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
        germinations=tally.germinations,
        stages=_stages(host),
        sites=_sites(host, health, tally),
        seeds=_seeds(host, health, progress, epoch=epoch, ready=ready, evaluations=evaluations),
        field_reports=_reports(tally),
        gate=gate,
    )


def _stages(host: Host) -> dict[Stage, int]:
    counts = Counter(seed.stage for seed in host.seeds.values())
    return {stage: counts[stage] for stage in Stage}


def _sites(host: Host, health: EpochHealth, tally: Tally) -> SiteColumns:
    names = tuple(site.name for site in host.sites)
    measured = [health.sites.get(name, Health()) for name in names]
    return SiteColumns(
        site=names,
        activation_variance=tuple(one.activation_variance for one in measured),
        gradient_variance=tuple(one.gradient_variance for one in measured),
        dead_neuron_ratio=tuple(one.dead_neuron_ratio for one in measured),
        avg_correlation=tuple(one.avg_correlation for one in measured),
        effective_rank=tuple(one.effective_rank for one in measured),
        gradient_pressure=tuple(one.gradient_pressure for one in measured),
        refused=tuple(tally.refused.get(name, 0) for name in names),
        failed=tuple(tally.failed.get(name, 0) for name in names),
        blueprints=tuple(map(host.affordable, names)),
    )


def _seeds(
    host: Host,
    health: EpochHealth,
    progress: Progress,
    *,
    epoch: int,
    ready: frozenset[Place],
    evaluations: Evaluations,
) -> SeedColumns:
    table = sorted(host.seeds.items())
    places, seeds = [place for place, _ in table], [seed for _, seed in table]
    measured = [health.seeds.get(place, Health()) for place in places]
    notes = [progress.note(*place) for place in places]
    found = [note.evaluation for note in notes]
    return SeedColumns(
        site=tuple(site for site, _ in places),
        seed=tuple(slot for _, slot in places),
        stage=tuple(seed.stage for seed in seeds),
        life=tuple(seed.life for seed in seeds),
        epochs_in_stage=tuple(epoch - seed.since_epoch for seed in seeds),
        blueprint=tuple(seed.blueprint for seed in seeds),
        kernel=tuple(seed.kernel for seed in seeds),
        embargo_until=tuple(seed.embargo_until for seed in seeds),
        alpha=tuple(seed.alpha for seed in seeds),
        ready=tuple(None if seed.stage is Stage.DORMANT else place in ready for place, seed in zip(places, seeds, strict=True)),
        recovering=tuple(seed.recovering or note.kernel_failed for seed, note in zip(seeds, notes, strict=True)),
        errors=tuple(seed.errors for seed in seeds),
        activation_variance=tuple(one.activation_variance for one in measured),
        gradient_variance=tuple(one.gradient_variance for one in measured),
        dead_neuron_ratio=tuple(one.dead_neuron_ratio for one in measured),
        avg_correlation=tuple(one.avg_correlation for one in measured),
        health_score=tuple(one.health_score for one in measured),
        loss_at_germination=tuple(note.loss_at_germination for note in notes),
        loss_before_graft=tuple(note.loss_before_graft for note in notes),
        evaluated=tuple(evaluations[(*place, one.epoch)] if one else None for place, one in zip(places, found, strict=True)),
        evaluated_epoch=tuple(one.epoch if one else None for one in found),
        evaluated_alpha=tuple(one.alpha if one else None for one in found),
        evaluated_n=tuple(one.n if one else None for one in found),
        evaluated_k=tuple(one.k if one else None for one in found),
        evaluated_mean=tuple(one.mean if one else None for one in found),
        evaluated_standard_error=tuple(one.standard_error if one else None for one in found),
        evaluated_loss_without=tuple(one.loss_without if one else None for one in found),
        evaluated_loss_with=tuple(one.loss_with if one else None for one in found),
    )


def _reports(tally: Tally) -> FieldReportColumns:
    return FieldReportColumns(
        blueprint=tuple(report.blueprint for report in tally.reports),
        site=tuple(report.site for report in tally.reports),
        seed=tuple(report.seed for report in tally.reports),
        life=tuple(report.life for report in tally.reports),
        outcome=tuple(report.outcome for report in tally.reports),
        metric_before=tuple(report.metric_before for report in tally.reports),
        metric_after=tuple(report.metric_after for report in tally.reports),
    )
