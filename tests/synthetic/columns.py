"""What the made-up trainer tells the policy at the end of an epoch: the SystemState of a `Memory`."""

from esper.events.kinds.epoch import KEPT_LOSSES, FieldReportColumns, SeedColumns, SiteColumns, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.folds.lifecycle import LIVE
from tests.synthetic.memory import Memory
from tests.synthetic.numbers import accuracy, loss
from tests.synthetic.script import GATE, SITES


def system(memory: Memory) -> SystemState:
    """The state at the end of the epoch that `memory` is at."""
    measured = memory.losses[-1]
    return SystemState(
        epoch=memory.epoch,
        epochs_planned=memory.planned,
        train_loss=measured - 0.027,
        train_metrics={"accuracy": accuracy(memory.epoch) + 0.02},
        validation_loss=measured,
        validation_metrics={"accuracy": accuracy(memory.epoch)},
        validation_losses=tuple(memory.losses[-KEPT_LOSSES:]),
        earlier_loss=min(memory.losses[:-KEPT_LOSSES], default=None),
        best_loss=min(memory.losses),
        best_epoch=memory.epoch,
        epochs_since_improvement=0,
        parameters=memory.parameters(),
        parameters_limit=4000,
        germinations=len(set(memory.germinated)),
        stages={stage: sum(row.stage is stage for row in memory.seeds.values()) for stage in Stage},
        sites=_sites(memory),
        seeds=_seeds(memory),
        field_reports=_reports(memory),
        gate=GATE,
    )


def _sites(memory: Memory) -> SiteColumns:
    size = len(SITES)
    return SiteColumns(
        site=tuple(site.name for site in SITES),
        activation_variance=(0.5,) * size,
        gradient_variance=(0.25,) * size,
        dead_neuron_ratio=(0.0,) * size,
        avg_correlation=(0.125,) * size,
        effective_rank=(5.25,) * (size - 1) + (None,),
        gradient_pressure=(0.48,) * (size - 1) + (None,),
        refused=tuple(memory.tallies["refused", site.name] for site in SITES),
        failed=tuple(memory.tallies["failed", site.name] for site in SITES),
        blueprints=tuple(site.blueprints for site in SITES),
    )


def _seeds(memory: Memory) -> SeedColumns:
    rows = list(memory.seeds.values())
    found = [memory.evaluations.get((row.site, row.seed)) for row in rows]
    live = [row.stage in LIVE for row in rows]
    return SeedColumns(
        site=tuple(row.site for row in rows),
        seed=tuple(row.seed for row in rows),
        stage=tuple(row.stage for row in rows),
        life=tuple(row.life for row in rows),
        epochs_in_stage=tuple(memory.epoch - row.since_epoch for row in rows),
        blueprint=tuple(row.blueprint for row in rows),
        kernel=tuple(row.kernel for row in rows),
        embargo_until=tuple(row.embargo_until for row in rows),
        alpha=tuple(memory.alpha(row) for row in rows),
        ready=tuple(memory.ready(row) for row in rows),
        recovering=(False,) * len(rows),
        errors=(0,) * len(rows),
        activation_variance=tuple(0.5 if alive else None for alive in live),
        gradient_variance=tuple(0.25 if alive else None for alive in live),
        dead_neuron_ratio=tuple(0.0 if alive else None for alive in live),
        avg_correlation=tuple(0.125 if alive else None for alive in live),
        health_score=tuple(0.75 if alive else None for alive in live),
        loss_at_germination=tuple(loss(row.life) if row.life else None for row in rows),
        loss_before_graft=tuple(loss(row.since_epoch) if row.stage is Stage.GRAFTING else None for row in rows),
        evaluated=tuple(one[0] if one else None for one in found),
        evaluated_epoch=tuple(one[1] if one else None for one in found),
        evaluated_alpha=tuple(one[2].alpha if one else None for one in found),
        evaluated_n=tuple(one[2].n if one else None for one in found),
        evaluated_k=tuple(one[2].k if one else None for one in found),
        evaluated_mean=tuple(one[2].mean if one else None for one in found),
        evaluated_standard_error=tuple(one[2].standard_error if one else None for one in found),
        evaluated_loss_without=tuple(one[2].loss_without if one else None for one in found),
        evaluated_loss_with=tuple(one[2].loss_with if one else None for one in found),
    )


def _reports(memory: Memory) -> FieldReportColumns:
    return FieldReportColumns(
        blueprint=tuple(report.blueprint for report in memory.reports),
        site=tuple(report.site for report in memory.reports),
        seed=tuple(report.seed for report in memory.reports),
        life=tuple(report.life for report in memory.reports),
        outcome=tuple(report.outcome for report in memory.reports),
        metric_before=tuple(report.metric_before for report in memory.reports),
        metric_after=tuple(report.metric_after for report in memory.reports),
    )
