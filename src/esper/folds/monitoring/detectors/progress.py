"""Progress of a loss: has what was learnt been lost, and does it last? This alone may wake somebody.

A loss is read in blocks of 16 values. The level of a block is its mean, values further than six spreads from the median cut to that. What
lasts is the median of the newest three blocks' levels (48 values): one bad block moves it by nothing. It is compared with the best lasting
level at a learning rate at least as high, because a rate that rises again (restarts, cycles) takes a loss back to where it was at that
rate; a rate that was never as high before is compared with the start.

The rise is judged by three questions, none of which knows the sign or the size of the loss:

  is it noise?    it must be `setback_spreads` standard deviations of a block's level, robustly from the differences of neighbouring blocks
                  (which know nothing of a trend, and grow with the wandering of a loss) and from the spread within blocks
  is it usual?    it must be twice the largest rise that this run has already recovered from
  does it matter? it must be a share of the progress, the distance from the start to that best level, at least half of the start's own size:
                  `setback_share` of it is a setback, `relapse_share` a relapse. Where nothing had been learnt yet there is nothing to lose:
                  then the loss must rise by twice its size

One block alone that was back where the run began, judged likewise at its own learning rate, is a setback too, though it does not last.

A learning rate that has been next to nothing for as long is `halted`: nothing is learnt any more. So is one that has been a thousandth of
the highest for longer than all training before: a schedule that decays to its end is shorter than that.

Everything is a recursion over values: how they were grouped into records makes no difference.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.detectors.thresholds import DetectorSettings

SETBACK, RELAPSE, HALTED = "setback", "relapse", "halted"
_BLOCK, _LASTING, _PAST = 16, 3, 16
_JUDGED = 6
_CUT = 6.0
_AS_HIGH = 1.5
_MOST_RATES = 16
_USUAL = 2.0
_RECOVERED = 0.5
_TINY = 1e-9
_HUGE = math.inf
_HALTED_SHARE, _DIM_SHARE = 1e-6, 1e-3
"""The share of the highest learning rate that is none; and that is hardly any."""


@dataclass
class Progress:
    """The state of one loss. Never changed once a state holds it: `step_progress` works on a copy."""

    block: list[float] = field(default_factory=list)
    """The values since the last full block."""
    rate: float = 0.0
    """The highest learning rate in them."""
    levels: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    highest_rate: float = 0.0
    halted: bool = False
    dim: int = 0
    """Blocks in a row with hardly any learning rate."""
    blocks: int = 0
    start: float | None = None
    best: list[tuple[float, float]] = field(default_factory=list)
    """Learning rates with the best lasting level at each; a higher rate has a worse one."""
    usual: float = 0.0
    """The largest rise that was recovered from."""
    peak: float = 0.0
    """The largest rise since the best level."""
    since: int | None = None
    """The step since which the level has been above its reference by more than noise."""
    open: dict[str, int] = field(default_factory=dict)
    """Open anomalies by detector, with the block that they began with."""

    def copy(self) -> "Progress":
        """The same, to be changed."""
        changed = ("block", "open")
        return Progress(**vars(self) | {name: getattr(self, name).copy() for name in changed})


class _Now(NamedTuple):
    """The newest block: its step, what lasts with it, the learning rate, and the factor of the limits."""

    metric: str
    step: int
    lasting: float
    rate: float
    factor: float


def step_progress(
    progress: Progress, metric: str, values: Iterable[tuple[int, float, float, float]], settings: DetectorSettings
) -> tuple[Progress, list[Anomaly]]:
    """`progress` after the values of a record, and the anomalies that begin.

    `values`: one a step, each its number, a value of `metric` (NaN or infinite: none), the learning rate, and the factor that raises the
    limits there.
    """
    progress, found = progress.copy(), list[Anomaly]()
    for place, (step, value, rate, factor) in enumerate(values):
        if not -_HUGE < value < _HUGE:
            continue
        progress.block.append(value)
        progress.rate = max(progress.rate, rate)
        if len(progress.block) == _BLOCK:
            found += [one._replace(place=place) for one in _close(progress, metric, step, factor, settings)]
    return progress, found


def _close(progress: Progress, metric: str, step: int, factor: float, settings: DetectorSettings) -> list[Anomaly]:
    """Judges the block that is full, and remembers it."""
    level, spread = _level(progress.block)
    progress.levels = [*progress.levels, level][-_LASTING - _PAST :]
    progress.spreads = [*progress.spreads, spread][-_LASTING - _PAST :]
    progress.rates = [*progress.rates, progress.rate][-_LASTING:]
    progress.block, progress.rate, progress.blocks = [], 0.0, progress.blocks + 1
    if progress.blocks < _LASTING:
        return []
    lasting = median(progress.levels[-_LASTING:])
    if progress.start is None:
        progress.start = max(progress.levels)
    rate = median(progress.rates)
    found = _halt(progress, step) + (
        _judge(progress, _Now(metric, step, lasting, rate, factor), settings) if progress.blocks >= _JUDGED else []
    )
    if not any(other >= rate and best <= lasting for other, best in progress.best):
        kept = [(other, best) for other, best in progress.best if other > rate or best < lasting]
        progress.best = sorted([*kept, (rate, lasting)])[-_MOST_RATES:]
    return found


def _halt(progress: Progress, step: int) -> list[Anomaly]:
    """The learning rate has been next to nothing for as long as a level must last."""
    highest = progress.highest_rate = max(progress.highest_rate, *progress.rates)
    progress.dim = progress.dim + 1 if progress.rates[-1] <= _DIM_SHARE * highest else 0
    longer = progress.dim >= _LASTING and 2 * progress.dim >= progress.blocks
    halted, begins = max(progress.rates) <= _HALTED_SHARE * highest or longer, not progress.halted
    progress.halted = halted
    since = step - max(_LASTING, progress.dim) * _BLOCK + 1
    return [Anomaly(0, HALTED, "learning_rate", progress.rates[-1], highest, 1.0, since)] if halted and begins else []


def _level(block: list[float]) -> tuple[float, float]:
    """The mean of a block without the reach of its outliers, and its spread."""
    ordered = sorted(block)
    middle, spread = ordered[_BLOCK // 2], (ordered[_BLOCK * 3 // 4] - ordered[_BLOCK // 4]) / 1.349
    low, high = middle - _CUT * spread, middle + _CUT * spread
    return sum(min(max(value, low), high) for value in block) / _BLOCK, spread


def _noise(progress: Progress, level: float) -> float:
    """The standard deviation of a block's level, from the blocks before those that are judged."""
    past = progress.levels[:-_LASTING]
    moves = [after - before for before, after in pairwise(past)]
    middle = median(moves) if moves else 0.0
    wander = 1.4826 * median([abs(move - middle) for move in moves]) / math.sqrt(2) if len(moves) > 1 else 0.0
    within = median(progress.spreads[:-_LASTING]) / math.sqrt(_BLOCK)
    return max(wander, within, _TINY * abs(level), 1e-36)


def _judge(progress: Progress, now: _Now, settings: DetectorSettings) -> list[Anomaly]:
    assert progress.start is not None, "a block was closed before"
    start, noise = progress.start, _noise(progress, now.lasting)
    known = [best for other, best in progress.best if other * _AS_HIGH >= now.rate]
    reference = min(known) if known else start
    rise = now.lasting - reference
    matters = _matters(start, min(best for _, best in progress.best) if not known else reference, noise, settings)
    usual = _USUAL * progress.usual
    limit = {
        SETBACK: max(settings.setback_share * matters, settings.setback_spreads * noise, usual) * now.factor,
        RELAPSE: max(settings.relapse_share * matters, settings.setback_spreads * noise, usual) * now.factor,
    }
    if rise <= settings.setback_spreads / 2 * noise:
        progress.since = None
    elif progress.since is None:
        progress.since = now.step - _LASTING * _BLOCK + 1
    if _end(progress, now, rise < _RECOVERED * limit[SETBACK], settings):
        return []
    if rise <= 0:
        progress.usual, progress.peak = max(progress.usual, progress.peak), 0.0
    elif not progress.open:
        progress.peak = max(progress.peak, rise)
    worst = RELAPSE if rise >= limit[RELAPSE] else SETBACK if rise >= limit[SETBACK] else None
    if worst is None and not progress.open:
        return _judge_block(progress, now, noise, settings)
    if worst is None or worst in progress.open or RELAPSE in progress.open:
        return []
    progress.open, progress.peak = {worst: progress.blocks}, 0.0
    return [Anomaly(0, worst, now.metric, now.lasting, reference, rise / noise, progress.since)]


def _judge_block(progress: Progress, now: _Now, noise: float, settings: DetectorSettings) -> list[Anomaly]:
    """The block before the newest, where what lasts is no setback: one if this block alone was back at the start."""
    assert progress.start is not None, "a block was closed before"
    known = [best for other, best in progress.best if other * _AS_HIGH >= max(progress.rates[-2:])]
    if not known:
        return []
    rise, matters = progress.levels[-2] - min(known), _matters(progress.start, min(known), noise, settings)
    if rise < max(settings.relapse_share * matters, 2 * settings.setback_spreads * noise, _USUAL * progress.usual) * now.factor:
        return []
    progress.open, progress.peak = {SETBACK: progress.blocks}, 0.0
    return [Anomaly(0, SETBACK, now.metric, progress.levels[-2], min(known), rise / noise, now.step - 2 * _BLOCK + 1)]


def _matters(start: float, best: float, noise: float, settings: DetectorSettings) -> float:
    """The rise that would lose everything that was learnt; twice the start's own size more where that is no more than noise."""
    learnt = start - best
    return max(learnt, abs(start) / 2) if learnt >= settings.setback_spreads * noise else max(learnt, 0.0) + 2 * abs(start)


def _end(progress: Progress, now: _Now, recovered: bool, settings: DetectorSettings) -> bool:
    """Ends what is open where the level has come back, or has lasted so long that it is what is normal now (True)."""
    if not progress.open:
        return False
    accepted = (progress.blocks - min(progress.open.values())) * _BLOCK >= settings.accepted_after
    if accepted:
        progress.best, progress.usual = [(now.rate, now.lasting)], 0.0
    if accepted or recovered:
        progress.open, progress.peak = {}, 0.0
    return accepted
