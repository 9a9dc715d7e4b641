"""Presence: a metric that was in every record, or a layer whose health was, and no longer is. A value that disappears is news."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from esper.folds.monitoring.detectors.series import Anomaly
from esper.folds.monitoring.measurements import Measurements

GONE = "gone"
_REGULAR = 40
"""Values in a row that make a metric a regular one, and without it that make it gone; of what has one value a record a tenth of it."""
_MOST = 256
_HEALTH = "activation_variance"


@dataclass(frozen=True, slots=True)
class Presence:
    """Names in the newest record, and for each that is or was regular the number of values in a row with it, or without (below 0).

    What has one value a record counts ten for each.
    """

    last: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    settled: bool = False
    """Another record with the same names changes nothing."""

    @property
    def gone(self) -> tuple[str, ...]:
        """The names that are gone."""
        return tuple(name for name, count in self.counts.items() if count <= -_REGULAR)


def step_presence(presence: Presence, read: Measurements) -> tuple[Presence, list[Anomaly]]:
    """`presence` after a record, and the values that are gone from it on. Of health the names are the sites."""
    names = _names(read)
    if presence.settled and names == presence.last:
        return presence, []
    counts, found = dict[str, int](), list[Anomaly]()
    here, size = set(names), 10 if read.steps is None else len(read.steps)
    for name in dict.fromkeys((*presence.counts, *names)):
        count = presence.counts.get(name, 0)
        if name in here:
            counts[name] = min(max(count, 0) + size, _REGULAR)
        elif count == _REGULAR or count < 0:
            counts[name] = max(min(count, 0) - size, -_REGULAR)
            if counts[name] == -_REGULAR != count:
                found.append(_gone(name, read))
    counts = dict(list(counts.items())[:_MOST])
    return Presence(names, counts, settled=all(abs(count) == _REGULAR for count in counts.values())), found


def _names(read: Measurements) -> tuple[str, ...]:
    if read.sites is not None and read.seeds is not None:
        return tuple(site for site, seed in zip(read.sites, read.seeds, strict=True) if seed is None)
    return tuple([name for name, measured in read.measured.items() if len(measured) and measured[-1]])


def _gone(name: str, read: Measurements) -> Anomaly:
    site, metric = gone_metric(name, health=read.sites is not None)
    return Anomaly(0, GONE, metric, math.nan, None, 1.0, site=site)


def gone_metric(name: str, *, health: bool) -> tuple[str | None, str]:
    """Site and metric of the anomaly about `name`."""
    return (name, _HEALTH) if health else (None, name)
