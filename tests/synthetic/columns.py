"""What the made-up trainer tells the policy at the end of an epoch: the SystemState of a `Memory`."""

from esper.events.kinds.epoch import KEPT_LOSSES, SiteRow, SystemState
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.folds.transitions import LIVE
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
        seeds=tuple(_seed(memory, row) for row in memory.seeds.values()),
        field_reports=tuple(memory.reports),
        gate=GATE,
    )


def _sites(memory: Memory) -> tuple[SiteRow, ...]:
    last = SITES[-1]
    return tuple(
        SiteRow(
            site=site.name,
            activation_variance=0.5,
            gradient_variance=0.25,
            dead_neuron_ratio=0.0,
            avg_correlation=0.125,
            effective_rank=None if site is last else 5.25,
            gradient_pressure=None if site is last else 0.48,
            refused=memory.tallies["refused", site.name],
            failed=memory.tallies["failed", site.name],
            blueprints=site.blueprints,
        )
        for site in SITES
    )


def _seed(memory: Memory, row: SeedRow) -> SeedRow:
    evaluated, evaluation = memory.evaluations.get((row.site, row.seed), (None, None))
    health = {
        "activation_variance": 0.5,
        "gradient_variance": 0.25,
        "dead_neuron_ratio": 0.0,
        "avg_correlation": 0.125,
        "health_score": 0.75,
    }
    measured = {
        "alpha": memory.alpha(row),
        "ready": memory.ready(row),
        "loss_at_germination": loss(row.life) if row.life else None,
        "loss_before_graft": loss(row.since_epoch) if row.stage is Stage.GRAFTING else None,
        "evaluation": evaluation,
        "evaluated": evaluated,
    }
    return row.model_copy(update=measured | (health if row.stage in LIVE else {}))
