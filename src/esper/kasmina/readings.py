"""What a measurement says: values by site and seed, as the events and the policy take them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from esper.events.fields import float32_column
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.telemetry import HealthColumns
from esper.kasmina.health import health_score

STATISTICS = ("activation_variance", "gradient_variance", "dead_neuron_ratio", "avg_correlation", "gradient_pressure")
VARIANCE, CORRELATION = 0, 3


@dataclass(frozen=True, slots=True)
class Health:
    """What was measured of one site or seed, `STATISTICS` first; None: not measured. The pressure and the rank are a site's."""

    activation_variance: float | None = None
    gradient_variance: float | None = None
    dead_neuron_ratio: float | None = None
    avg_correlation: float | None = None
    gradient_pressure: float | None = None
    effective_rank: float | None = None
    health_score: float | None = None


@dataclass(frozen=True, slots=True)
class EpochHealth:
    """What an epoch's measurements say, by site and by live seed; a site or seed that was not measured is absent."""

    sites: Mapping[str, Health]
    seeds: Mapping[tuple[str, int], Health]


@dataclass(frozen=True, slots=True)
class Row:
    """Whose values a row holds: a site's (seed None) or a live seed's. `errors` are those since the last measurement."""

    site: str
    seed: int | None = None
    stage: Stage | None = None
    alpha: float | None = None
    errors: int = 0
    recovering: bool = False
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class HealthSample:
    """One measurement: a row per site and live seed; `values` (rows, STATISTICS) float32, `measured` says which of them exist."""

    rows: tuple[Row, ...]
    values: npt.NDArray[np.float32]
    measured: npt.NDArray[np.bool_]

    def columns(self, ready: Mapping[tuple[str, int], bool]) -> HealthColumns:
        """The measurement as it stands in SeedHealthMeasured; may be called on another thread. `ready` is the trainer's to say."""
        rows = self.rows
        scores = [self.of(index).health_score for index in range(len(rows))]
        named = {name: float32_column(self.values[:, i], self.measured[:, i]) for i, name in enumerate(STATISTICS[:4])}
        return HealthColumns(
            site=tuple(row.site for row in rows),
            seed=tuple(row.seed for row in rows),
            stage=tuple(row.stage for row in rows),
            activation_variance=named["activation_variance"],
            gradient_variance=named["gradient_variance"],
            dead_neuron_ratio=named["dead_neuron_ratio"],
            avg_correlation=named["avg_correlation"],
            latency_ms=tuple(row.latency_ms for row in rows),
            errors=tuple(row.errors for row in rows),
            recovering=tuple(row.recovering for row in rows),
            alpha=float32_column([row.alpha or 0.0 for row in rows], [row.alpha is not None for row in rows]),
            ready=tuple(None if row.seed is None else ready.get((row.site, row.seed)) for row in rows),
            health_score=float32_column([score or 0.0 for score in scores], [score is not None for score in scores]),
        )

    def of(self, index: int) -> Health:
        """What one row says, its score with it."""
        pairs = zip(self.values[index], self.measured[index], strict=True)
        found = Health(*(float(value) if known else None for value, known in pairs))
        score = health_score(found.activation_variance, found.dead_neuron_ratio, found.avg_correlation, self.rows[index].recovering)
        return replace(found, health_score=score)
