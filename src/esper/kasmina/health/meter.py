"""Health of sites and seeds in a measured step: hooks before it, reduction of the samples after it, summaries at an epoch's end.

All numbers of a step are brought over at once, in a step after which the trainer waits for the device anyway. A site's dead ratio is taken
behind its activation function, a seed's dead ratio and correlation at the last hidden units of its body, its variances at the delta.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper.events.fields import float32_column
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.telemetry import HealthColumns
from esper.folds.transitions import LIVE
from esper.kasmina.branch import Trace
from esper.kasmina.health import formulas
from esper.kasmina.health.activation import ActivationHooks
from esper.kasmina.site_layer import Capture, HostSite
from esper.kasmina.slots import HostSlot

_STATISTICS = ("activation_variance", "gradient_variance", "dead_neuron_ratio", "avg_correlation", "gradient_pressure")
_MINIMUM_ROWS = 8
_Numbers = list[Tensor | None]


@dataclass(frozen=True, slots=True)
class Health:
    """Measurements of one site or seed, `_STATISTICS` first; None: not measured. Pressure and rank are a site's."""

    activation_variance: float | None = None
    gradient_variance: float | None = None
    dead_neuron_ratio: float | None = None
    avg_correlation: float | None = None
    gradient_pressure: float | None = None
    effective_rank: float | None = None
    health_score: float | None = None


class _MeasuredRow(NamedTuple):
    """Subject of a row: a site (seed None) or a live seed. `errors`: those since the last measurement; `units`: those that may be dead."""

    site: str
    seed: int | None = None
    stage: Stage | None = None
    alpha: float | None = None
    errors: int = 0
    recovering: bool = False
    latency_ms: float | None = None
    units: int | None = None


@dataclass(frozen=True, slots=True)
class HealthSample:
    """Measurement of one step: the health of every site and live seed."""

    health: Mapping[_MeasuredRow, Health]

    def columns(self, ready: Mapping[tuple[str, int], bool]) -> HealthColumns:
        """The measurement as it stands in SeedHealthMeasured; may be called on another thread. `ready`: by seed."""
        columns = dict(zip(_MeasuredRow._fields, zip(*self.health, strict=True), strict=True))
        columns["alpha"] = _float32_column(columns["alpha"])
        for name in (*_STATISTICS[:4], "health_score"):
            columns[name] = _float32_column([getattr(health, name) for health in self.health.values()])
        columns["ready"] = tuple(None if row.seed is None else ready.get((row.site, row.seed)) for row in self.health)
        return HealthColumns(**columns)


def _float32_column(values: Iterable[float | None]) -> tuple[float | None, ...]:
    return float32_column([0.0 if value is None else value for value in values], [value is not None for value in values])


class HealthMeter:
    """The measurements of one host, from an epoch's start or a restore on; errors that `slots` have already were reported before."""

    def __init__(self, slots: Iterable[HostSlot] = ()) -> None:
        self.hooks = ActivationHooks()
        self._last: HealthSample | None = None
        self._unread = False
        self._samples: dict[str, Tensor] = {}
        self._pressures: dict[str, list[Tensor]] = {}
        self._errors = {(slot.name, slot.life): slot.errors for slot in slots}

    def arm(self, model: nn.Module, host_sites: Iterable[HostSite]) -> None:
        """From now until `take`, seeds leave samples, and activation functions are hooked; captures are on already."""
        self.hooks.arm(model)
        for host_site in host_sites:
            for slot in host_site.slots:
                if slot.branch is not None:
                    slot.branch.trace = Trace()

    def take(self, host_sites: Iterable[HostSite], captures: Mapping[str, list[Capture]], *, scale: float, sound: bool) -> None:
        """Reduces the step's samples and disarms. `scale` is what the loss was multiplied by; an unsound step has no gradients."""
        self.hooks.disarm()
        found: dict[_MeasuredRow, _Numbers] = {}
        for host_site in host_sites:
            numbers_of_site, units = self._site(host_site, captures[host_site.name], scale, sound)
            found[_MeasuredRow(host_site.name, units=units)] = numbers_of_site
            for slot in host_site.slots:
                trace = Trace() if slot.branch is None or slot.branch.trace is None else slot.branch.trace
                if slot.stage in LIVE:
                    found[self._row(slot, trace)] = _seed(trace, scale if slot.stage is not Stage.TRAINING else 1.0, sound)
                if slot.branch is not None:
                    slot.branch.trace = None
        # The CPU waits for the device here, once.
        numbers = iter(_floats([number for row in found.values() for number in row if number is not None]))
        rows = ((row, [None if number is None else next(numbers) for number in values]) for row, values in found.items())
        self._last = HealthSample({row: _health(values, row.recovering) for row, values in rows})
        self._unread = True

    def last(self) -> HealthSample | None:
        """The last measurement, once; None when no step was measured since."""
        last, self._unread = self._last if self._unread else None, False
        return last

    def epoch(self) -> dict[tuple[str, int | None], Health]:
        """Health of the epoch, as `Host.epoch_health` returns it; the next starts empty."""
        ranks = dict(zip(self._samples, _floats([formulas.effective_rank(S) for S in self._samples.values()]), strict=True))
        pressures = dict(zip(self._pressures, _floats([torch.stack(values).mean() for values in self._pressures.values()]), strict=True))
        found: dict[tuple[str, int | None], Health] = {}
        for row, health in ({} if self._last is None else self._last.health).items():
            extra = {"effective_rank": ranks.get(row.site), "gradient_pressure": pressures.get(row.site)} if row.seed is None else {}
            found[row.site, row.seed] = replace(health, **extra)
        self._last = None
        self._samples.clear()
        self._pressures.clear()
        return found

    def _site(self, host_site: HostSite, captures: list[Capture], scale: float, sound: bool) -> tuple[_Numbers, int | None]:
        name = host_site.name
        measured = [(capture.sample, capture.gradient) for capture in captures if capture.sample is not None]
        if not measured:
            return [None] * len(_STATISTICS), None
        S, gradient = measured[-1]
        assert gradient is not None
        self._samples[name] = S
        pressure = G = None
        if sound:
            factor = sum(capture.samples for capture in captures) / scale
            pressure, G = factor * formulas.pressure(gradient), factor * formulas.sample(gradient, channels_first=host_site.channels_first)
            self._pressures.setdefault(name, []).append(pressure)
        active = self.hooks.behind(name, S)
        return [*_of_units(S, G, active, S), pressure], None if active is None else active.shape[1]

    def _row(self, slot: HostSlot, trace: Trace) -> _MeasuredRow:
        new = slot.errors - self._errors.get((slot.name, slot.life), 0)
        self._errors[slot.name, slot.life] = slot.errors
        units = None if trace.delta is None or trace.hidden is None else trace.hidden.shape[1]
        return _MeasuredRow(slot.site, slot.seed, slot.stage, slot.alpha, new, slot.recovering, trace.latency_ms, units)


def _seed(trace: Trace, scale: float, sound: bool) -> _Numbers:
    if trace.delta is None:
        return [None] * len(_STATISTICS)
    G = trace.samples / scale * trace.gradient if trace.gradient is not None and sound else None
    return [*_of_units(trace.delta, G, trace.hidden, trace.hidden), None]


def _of_units(values: Tensor, G: Tensor | None, active: Tensor | None, units: Tensor | None) -> _Numbers:
    """(activation variance, gradient variance, dead ratio, correlation) of samples, those that exist."""
    enough = units is not None and units.shape[0] >= _MINIMUM_ROWS and units.shape[1] > 1
    return [
        formulas.variance(values),
        None if G is None else formulas.variance(G),
        None if active is None else formulas.dead_ratio(active),
        formulas.correlation(units) if units is not None and enough else None,
    ]


def _health(numbers: list[float | None], recovering: bool) -> Health:
    variance, gradient_variance, dead, correlated, pressure = numbers
    # Units of which fewer than two vary have no correlation: NaN beside a finite variance is not measured.
    if correlated is not None and math.isnan(correlated) and variance is not None and math.isfinite(variance):
        correlated = None
    score = formulas.health_score(variance, dead, correlated, recovering)
    return Health(variance, gradient_variance, dead, correlated, pressure, health_score=score)


def _floats(numbers: list[Tensor]) -> list[float]:
    values: list[float] = torch.stack([number.float() for number in numbers]).tolist() if numbers else []
    return values
