"""Health of sites and seeds in a measured step: hooks before it, reduction of the samples after it, summaries at an epoch's end.

Numbers stay on the device in one packed tensor until somebody asks. A site's dead ratio is taken behind its activation function, a seed's
dead ratio and correlation at the last hidden units of its body, its variances at the delta.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
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
VARIANCE, CORRELATION = 0, 3


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


@dataclass(frozen=True, slots=True)
class EpochHealth:
    """Health over an epoch, by site and by live seed; a site or seed that was not measured is absent."""

    sites: Mapping[str, Health]
    seeds: Mapping[tuple[str, int], Health]


@dataclass(frozen=True, slots=True)
class _MeasuredRow:
    """Subject of a row: a site (seed None) or a live seed. `errors` are those since the last measurement."""

    site: str
    seed: int | None = None
    stage: Stage | None = None
    alpha: float | None = None
    errors: int = 0
    recovering: bool = False
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class HealthSample:
    """Measurement of one step: a row per site and live seed; `values` (rows, _STATISTICS) float32, `measured` marks those that exist."""

    rows: tuple[_MeasuredRow, ...]
    values: npt.NDArray[np.float32]
    measured: npt.NDArray[np.bool_]

    def columns(self, ready: Mapping[tuple[str, int], bool]) -> HealthColumns:
        """The measurement as it stands in SeedHealthMeasured; may be called on another thread. `ready` is the trainer's to say."""
        rows = self.rows
        scores = [self.of(index).health_score for index in range(len(rows))]
        named = {name: float32_column(self.values[:, i], self.measured[:, i]) for i, name in enumerate(_STATISTICS[:4])}
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
        """Health of one row, with its score."""
        pairs = zip(self.values[index], self.measured[index], strict=True)
        found = Health(*(float(value) if known else None for value, known in pairs))
        score = formulas.health_score(
            found.activation_variance, found.dead_neuron_ratio, found.avg_correlation, self.rows[index].recovering
        )
        return replace(found, health_score=score)


_MINIMUM_ROWS = 8
_Life = tuple[str, int, int | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    rows: tuple[_MeasuredRow, ...]
    values: Tensor
    measured: npt.NDArray[np.bool_]

    def read(self) -> HealthSample:
        """The values on the CPU. Units of which fewer than two vary have no correlation: NaN beside a finite variance is not measured."""
        values, measured = self.values.cpu().numpy(), self.measured.copy()
        measured[:, CORRELATION] &= ~(np.isnan(values[:, CORRELATION]) & np.isfinite(values[:, VARIANCE]))
        return HealthSample(self.rows, values, measured)


@dataclass(eq=False)
class HealthMeter:
    """The measurements of one host."""

    watch: ActivationHooks = field(default_factory=ActivationHooks)
    _packed: _Packed | None = None
    _taken: bool = True
    _samples: dict[str, Tensor] = field(default_factory=dict)
    _pressures: dict[str, list[Tensor]] = field(default_factory=dict)
    _errors: dict[_Life, int] = field(default_factory=dict)

    def arm(self, model: nn.Module, host_sites: Iterable[HostSite]) -> None:
        """From now until `take`, seeds leave samples, and activation functions are watched; the sites listen already."""
        self.watch.arm(model)
        for host_site in host_sites:
            for slot in host_site.slots:
                if slot.branch is not None:
                    slot.branch.trace = Trace()

    def take(self, host_sites: Iterable[HostSite], captures: Mapping[str, list[Capture]], *, scale: float, sound: bool) -> None:
        """Reduces the step's samples and disarms. `scale` is what the loss was multiplied by; an unsound step has no gradients."""
        self.watch.disarm()
        rows: list[_MeasuredRow] = []
        numbers: list[list[Tensor | None]] = []
        for host_site in host_sites:
            rows.append(_MeasuredRow(host_site.name))
            numbers.append(self._site(host_site, captures[host_site.name], scale, sound))
            for slot in host_site.slots:
                if slot.stage in LIVE:
                    rows.append(self._row(slot))
                    numbers.append(self._seed(slot, scale if slot.stage is not Stage.TRAINING else 1.0, sound))
                if slot.branch is not None:
                    slot.branch.trace = None
        self._packed, self._taken = _pack(rows, numbers), False

    def last(self) -> HealthSample | None:
        """The last measurement, once; None when no step was measured since. One transfer: the CPU waits for the device here."""
        if self._taken or self._packed is None:
            return None
        self._taken = True
        return self._packed.read()

    def epoch(self) -> EpochHealth:
        """The last measurement of the epoch, mean pressures over its measurements, effective ranks; the next epoch starts empty."""
        sites: dict[str, Health] = {}
        seeds: dict[tuple[str, int], Health] = {}
        if self._packed is not None:
            reading, extra = self._packed.read(), self._extra()
            for index, row in enumerate(reading.rows):
                if row.seed is None:
                    sites[row.site] = replace(reading.of(index), **extra.get(row.site, {}))
                else:
                    seeds[row.site, row.seed] = reading.of(index)
        self._packed = None
        self._samples.clear()
        self._pressures.clear()
        return EpochHealth(sites, seeds)

    def _extra(self) -> dict[str, dict[str, float]]:
        """By site what is asked for once an epoch, brought over at once."""
        ranks = {(name, "effective_rank"): formulas.effective_rank(S) for name, S in self._samples.items()}
        pressures = {(name, "gradient_pressure"): torch.stack(values).mean() for name, values in self._pressures.items()}
        named = ranks | pressures
        values = torch.stack(list(named.values())).tolist() if named else []
        extra: dict[str, dict[str, float]] = {}
        for (name, statistic), value in zip(named, values, strict=True):
            extra.setdefault(name, {})[statistic] = value
        return extra

    def forget(self, slots: Iterable[HostSlot] = ()) -> None:
        """Drops everything, for a restore, also in the middle of a step; errors that `slots` have already were told before."""
        self.watch.disarm()
        self.__dict__.update(HealthMeter().__dict__)
        self._errors = {_life(slot): slot.errors for slot in slots}

    def _site(self, host_site: HostSite, captures: list[Capture], scale: float, sound: bool) -> list[Tensor | None]:
        captures = [capture for capture in captures if capture.sample is not None and capture.gradient is not None]
        if not captures:
            return [None] * len(_STATISTICS)
        S, gradient, name = captures[-1].sample, captures[-1].gradient, host_site.name
        assert S is not None
        assert gradient is not None
        factor = sum(capture.samples for capture in captures) / scale
        self._samples[name] = S
        pressure = factor * formulas.pressure(gradient) if sound else None
        if pressure is not None:
            self._pressures.setdefault(name, []).append(pressure)
        G = factor * formulas.sample(gradient) if sound else None
        return [*_of_units(S, G, self.watch.behind(name, S), S), pressure]

    def _seed(self, slot: HostSlot, scale: float, sound: bool) -> list[Tensor | None]:
        trace = slot.branch.trace if slot.branch is not None else None
        if trace is None or trace.delta is None:
            return [None] * len(_STATISTICS)
        factor = trace.samples / scale
        G = factor * trace.gradient if trace.gradient is not None and sound else None
        return [*_of_units(trace.delta, G, trace.hidden, trace.hidden), None]

    def _row(self, slot: HostSlot) -> _MeasuredRow:
        new = slot.errors - self._errors.get(_life(slot), 0)
        self._errors[_life(slot)] = slot.errors
        trace = slot.branch.trace if slot.branch is not None else None
        latency_ms = None if trace is None else trace.latency_ms
        return _MeasuredRow(slot.site, slot.seed, slot.stage, slot.alpha, new, slot.recovering, latency_ms)


def _life(slot: HostSlot) -> _Life:
    return slot.site, slot.seed, slot.life


def _of_units(values: Tensor, G: Tensor | None, active: Tensor | None, units: Tensor | None) -> list[Tensor | None]:
    """(activation variance, gradient variance, dead ratio, correlation) of samples, those that exist."""
    enough = units is not None and units.shape[0] >= _MINIMUM_ROWS and units.shape[1] > 1
    return [
        formulas.variance(values),
        None if G is None else formulas.variance(G),
        None if active is None else formulas.dead_ratio(active),
        formulas.correlation(units) if units is not None and enough else None,
    ]


def _pack(rows: list[_MeasuredRow], numbers: list[list[Tensor | None]]) -> _Packed:
    measured = np.array([[number is not None for number in row] for row in numbers], dtype=bool)
    flat = [number for row in numbers for number in row if number is not None]
    values = torch.zeros(measured.shape)
    if flat:
        values = torch.zeros(measured.shape, device=flat[0].device)
        values[torch.from_numpy(measured)] = torch.stack([number.float() for number in flat])
    return _Packed(tuple(rows), values, measured)
