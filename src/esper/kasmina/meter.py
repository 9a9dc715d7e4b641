"""Takes the measurements of a step: arms sites and seeds before it, reduces their samples after it, keeps what an epoch's end asks for.

Numbers stay on the device in one packed tensor until somebody asks. A site's dead ratio is taken behind its activation function, a seed's
dead ratio and correlation at the last hidden units of its body, its variances at the delta.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from esper.events.kinds.lifecycle import Stage
from esper.folds.lifecycle import LIVE
from esper.kasmina import health
from esper.kasmina.activation import Watch
from esper.kasmina.branch import Trace
from esper.kasmina.places import Place
from esper.kasmina.readings import CORRELATION, STATISTICS, VARIANCE, EpochHealth, Health, HealthSample, Row
from esper.kasmina.sites import Tap
from esper.kasmina.slots import Slot

MINIMUM_ROWS = 8
Life = tuple[str, int, int | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Packed:
    rows: tuple[Row, ...]
    values: Tensor
    measured: npt.NDArray[np.bool_]

    def read(self) -> HealthSample:
        """The values on the CPU. Units of which fewer than two vary have no correlation: NaN beside a finite variance is not measured."""
        values, measured = self.values.cpu().numpy(), self.measured.copy()
        measured[:, CORRELATION] &= ~(np.isnan(values[:, CORRELATION]) & np.isfinite(values[:, VARIANCE]))
        return HealthSample(self.rows, values, measured)


@dataclass(eq=False)
class Meter:
    """The measurements of one host."""

    watch: Watch = field(default_factory=Watch)
    _packed: _Packed | None = None
    _taken: bool = True
    _samples: dict[str, Tensor] = field(default_factory=dict)
    _pressures: dict[str, list[Tensor]] = field(default_factory=dict)
    _errors: dict[Life, int] = field(default_factory=dict)

    def arm(self, model: nn.Module, places: Iterable[Place]) -> None:
        """From now until `take`, seeds leave samples, and activation functions are watched; the sites listen already."""
        self.watch.arm(model)
        for place in places:
            for slot in place.slots:
                if slot.branch is not None:
                    slot.branch.trace = Trace()

    def take(self, places: Iterable[Place], taps: Mapping[str, list[Tap]], *, scale: float, sound: bool) -> None:
        """Reduces the step's samples and disarms. `scale` is what the loss was multiplied by; an unsound step has no gradients."""
        self.watch.disarm()
        rows: list[Row] = []
        numbers: list[list[Tensor | None]] = []
        for place in places:
            rows.append(Row(place.site.name))
            numbers.append(self._site(place, taps[place.site.name], scale, sound))
            for slot in place.slots:
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
        ranks = {(name, "effective_rank"): health.effective_rank(S) for name, S in self._samples.items()}
        pressures = {(name, "gradient_pressure"): torch.stack(values).mean() for name, values in self._pressures.items()}
        named = ranks | pressures
        values = torch.stack(list(named.values())).tolist() if named else []
        extra: dict[str, dict[str, float]] = {}
        for (name, statistic), value in zip(named, values, strict=True):
            extra.setdefault(name, {})[statistic] = value
        return extra

    def forget(self, slots: Iterable[Slot] = ()) -> None:
        """Drops everything, for a restore, also in the middle of a step; errors that `slots` have already were told before."""
        self.watch.disarm()
        self.__dict__.update(Meter().__dict__)
        self._errors = {_life(slot): slot.errors for slot in slots}

    def _site(self, place: Place, taps: list[Tap], scale: float, sound: bool) -> list[Tensor | None]:
        taps = [tap for tap in taps if tap.sample is not None and tap.gradient is not None]
        if not taps:
            return [None] * len(STATISTICS)
        S, gradient, name = taps[-1].sample, taps[-1].gradient, place.site.name
        assert S is not None
        assert gradient is not None
        factor = sum(tap.samples for tap in taps) / scale
        self._samples[name] = S
        pressure = factor * health.pressure(gradient) if sound else None
        if pressure is not None:
            self._pressures.setdefault(name, []).append(pressure)
        G = factor * health.sample(gradient) if sound else None
        return [*_of_units(S, G, self.watch.behind(name, S), S), pressure]

    def _seed(self, slot: Slot, scale: float, sound: bool) -> list[Tensor | None]:
        trace = slot.branch.trace if slot.branch is not None else None
        if trace is None or trace.delta is None:
            return [None] * len(STATISTICS)
        factor = trace.samples / scale
        G = factor * trace.gradient if trace.gradient is not None and sound else None
        return [*_of_units(trace.delta, G, trace.hidden, trace.hidden), None]

    def _row(self, slot: Slot) -> Row:
        new = slot.errors - self._errors.get(_life(slot), 0)
        self._errors[_life(slot)] = slot.errors
        trace = slot.branch.trace if slot.branch is not None else None
        latency_ms = None if trace is None else trace.latency_ms
        return Row(slot.site, slot.seed, slot.stage, slot.alpha, new, slot.recovering, latency_ms)


def _life(slot: Slot) -> Life:
    return slot.site, slot.seed, slot.life


def _of_units(values: Tensor, G: Tensor | None, active: Tensor | None, units: Tensor | None) -> list[Tensor | None]:
    """(activation variance, gradient variance, dead ratio, correlation) of samples, those that exist."""
    enough = units is not None and units.shape[0] >= MINIMUM_ROWS and units.shape[1] > 1
    return [
        health.variance(values),
        None if G is None else health.variance(G),
        None if active is None else health.dead_ratio(active),
        health.correlation(units) if units is not None and enough else None,
    ]


def _pack(rows: list[Row], numbers: list[list[Tensor | None]]) -> _Packed:
    measured = np.array([[number is not None for number in row] for row in numbers], dtype=bool)
    flat = [number for row in numbers for number in row if number is not None]
    values = torch.zeros(measured.shape)
    if flat:
        values = torch.zeros(measured.shape, device=flat[0].device)
        values[torch.from_numpy(measured)] = torch.stack([number.float() for number in flat])
    return _Packed(tuple(rows), values, measured)
