"""What the made-up trainer measures: every step, and the health of sites and seeds."""

import math

from esper.events.kinds.lifecycle import SeedRow
from esper.events.kinds.telemetry import HealthColumns, SeedHealthMeasured, StepColumns, StepsMeasured
from esper.folds.transitions import LIVE
from tests.synthetic.memory import Memory
from tests.synthetic.numbers import loss
from tests.synthetic.script import SITES


def steps_measured(memory: Memory, span: range, *, poisoned: bool = False) -> StepsMeasured:
    """The steps of `span`; the last loss of a poisoned one is NaN."""
    losses = [loss(memory.epoch) + 0.01 * math.sin(step) for step in span]
    losses[-1] = math.nan if poisoned else losses[-1]
    columns = StepColumns(
        step=tuple(span),
        loss=tuple(losses),
        gradient_norm=tuple(0.5 for _ in span),
        step_latency_ms=tuple(0.8 for _ in span),
        data_wait_ms=tuple(0.024 for _ in span),
    )
    return StepsMeasured(
        steps=columns,
        metrics={},
        learning_rates=(3e-3,),
        live_seeds=sum(row.stage in LIVE for row in memory.seeds.values()),
        last_adaptation_step=memory.last_adaptation,
        samples_per_s=80000.0,
        memory_bytes=None,
    )


def health_measured(memory: Memory) -> SeedHealthMeasured:
    """The health of every site and every live seed."""
    rows: list[tuple[str, SeedRow | None]] = [(site.name, None) for site in SITES]
    rows += [(row.site, row) for row in memory.seeds.values() if row.stage in LIVE]
    size = len(rows)
    columns = HealthColumns(
        site=tuple(site for site, _ in rows),
        seed=tuple(row.seed if row else None for _, row in rows),
        stage=tuple(row.stage if row else None for _, row in rows),
        activation_variance=(0.5,) * size,
        gradient_variance=(0.25,) * size,
        dead_neuron_ratio=(0.0,) * size,
        units=(6,) * size,
        avg_correlation=(0.125,) * size,
        latency_ms=(None,) * size,
        errors=(0,) * size,
        recovering=(False,) * size,
        alpha=tuple(memory.alpha(row) if row else None for _, row in rows),
        ready=tuple(memory.ready(row) if row else None for _, row in rows),
        health_score=tuple(0.75 if row else None for _, row in rows),
    )
    return SeedHealthMeasured(health=columns, last_adaptation_step=memory.last_adaptation)
