"""Pace of a training: how long steps take and wait for data, and the memory that they keep. Never critical: a shared machine is slow, too.

  waiting  over two windows of 50 steps in a row, waiting for data takes more of the time than ever before, by a large share
  stall    one wait for data, within an epoch, of seconds
  slower   the median step takes several times as long as in the fastest window
  growing  memory that grew with every one of many records

All of it is measured in shares and multiples of the run's own; an absolute floor keeps out what a person would not notice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.measurements import Measurements

_WINDOW = 50
_SKIPPED = 1
"""Windows at the start that are no measure: caches fill, kernels are made."""
_GROWN_RECORDS = 12
_GROWN_SHARE = 0.1
_RECOVERED = 0.5


@dataclass(frozen=True, slots=True)
class Pace:
    """Waits and durations of the steps since the last full window, the least of earlier windows, and the stretch in which memory grew."""

    waits: tuple[float, ...] = ()
    durations: tuple[float, ...] = ()
    windows: int = 0
    least_share: float = 1.0
    """The least share of the time that was waited."""
    least_s: float = 0.0
    """The least median duration of a step; 0 before there is one."""
    slow: int = 0
    """Windows in a row with a large share of waiting."""
    memory: float = 0.0
    grown: int = 0
    """Records in a row with more memory than the one before."""
    grown_from: float = 0.0
    open: tuple[str, ...] = ()


def step_pace(pace: Pace, read: Measurements, settings: DetectorSettings) -> tuple[Pace, list[Anomaly]]:
    """`pace` after a record of steps, and the anomalies that begin."""
    found: list[Anomaly] = []
    waits, durations, stall_s = [*pace.waits], [*pace.durations], settings.stall_s
    steps = zip(read.columns["data_wait_s"].tolist(), read.columns["step_latency_s"].tolist(), strict=True)
    for place, (wait, duration) in enumerate(steps):
        if not (wait >= 0 and duration >= 0):  # Not measured, or not finite.
            continue
        if wait >= stall_s and pace.windows > _SKIPPED and wait >= _WINDOW * pace.least_s and "stall" not in pace.open:
            found.append(Anomaly(place, "stall", "data_wait_s", wait, pace.least_s, wait / max(pace.least_s, 1e-9)))
            pace = replace(pace, open=(*pace.open, "stall"))
        waits.append(wait)
        durations.append(duration)
        if len(waits) == _WINDOW:
            pace, begun = _close(replace(pace, waits=tuple(waits), durations=tuple(durations)), place, settings)
            waits, durations = [], []
            found += begun
    now = float(read.columns["memory_bytes"][0])
    pace, begun = _memory(pace, now) if now > 0 and pace.windows > _SKIPPED else (pace, [])
    return replace(pace, waits=tuple(waits), durations=tuple(durations)), found + begun


def _close(pace: Pace, place: int, settings: DetectorSettings) -> tuple[Pace, list[Anomaly]]:
    waited, worked, step_s = sum(pace.waits), sum(pace.durations), median(pace.durations)
    share = waited / max(waited + worked, 1e-12)
    windows, known = pace.windows + 1, pace.windows >= _SKIPPED
    far = known and pace.windows > _SKIPPED and share - pace.least_share >= settings.waiting_share
    slow = pace.slow + 1 if far and waited / _WINDOW >= settings.waiting_s else 0
    open_now = set(pace.open) - {"stall"}
    found: list[Anomaly] = []
    if slow >= 2:
        found += _begin(open_now, Anomaly(place, "waiting", "data_wait_s", waited / _WINDOW, pace.least_share, share))
    elif share - pace.least_share < _RECOVERED * settings.waiting_share:
        open_now.discard("waiting")
    times = step_s / pace.least_s if pace.least_s > 0 else 1.0
    if times >= settings.slower_factor and step_s >= settings.waiting_s:
        found += _begin(open_now, Anomaly(place, "slower", "step_latency_s", step_s, pace.least_s, times))
    elif times < _RECOVERED * settings.slower_factor:
        open_now.discard("slower")
    after = replace(pace, waits=(), durations=(), windows=windows, slow=slow, open=tuple(sorted(open_now)))
    if known:
        least_s = step_s if pace.least_s == 0 else min(pace.least_s, step_s)
        after = replace(after, least_share=min(pace.least_share, share), least_s=least_s)
    return after, found


def _memory(pace: Pace, now: float) -> tuple[Pace, list[Anomaly]]:
    if now == pace.memory and not pace.grown:
        return pace, []
    if now <= pace.memory or not pace.memory:
        return replace(pace, memory=now, grown=0, grown_from=now, open=tuple(one for one in pace.open if one != "growing")), []
    after = replace(pace, memory=now, grown=pace.grown + 1)
    if after.grown < _GROWN_RECORDS or now < pace.grown_from * (1 + _GROWN_SHARE) or "growing" in pace.open:
        return after, []
    found = Anomaly(0, "growing", "memory_bytes", now, pace.grown_from, now / pace.grown_from)
    return replace(after, open=(*pace.open, "growing")), [found]


def _begin(open_now: set[str], one: Anomaly) -> Iterable[Anomaly]:
    if one.detector in open_now:
        return ()
    open_now.add(one.detector)
    return (one,)
