"""What a collector is, and what runs collectors: each on a thread of its own, so that one that fails or hangs takes no other down.

What a collector gave last is what a scrape shows. When it has given nothing for three intervals (at least ten seconds) its metrics are
absent: an old number must not look like a new one.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module

from esper.errors import SettingsError
from esper.nissa.metrics.family import Family, Sample
from esper.nissa.metrics.model import Model

Collect = Callable[[Model], Iterable[Sample]]
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Collector:
    """A function that gives samples of the families it owns, every `interval_s` seconds. `name` is the value of a label."""

    name: str
    interval_s: float
    families: tuple[Family, ...]
    collect: Collect

    @property
    def patience_s(self) -> float:
        """How old its samples may become before they are absent, and how long it may take before it counts as hanging."""
        return max(3 * self.interval_s, PATIENCE_S)


def find_collector(path: str) -> Collector:
    """The collector that `path` names, as `module:attribute`. Raises SettingsError where there is none."""
    module, colon, attribute = path.partition(":")
    if not colon or not module or not attribute:
        raise SettingsError(f"setting nissa.collectors: expected module:attribute, got {path!r}")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"setting nissa.collectors: cannot find {path!r}: {error}") from error
    if not isinstance(found, Collector):
        raise SettingsError(f"setting nissa.collectors: expected {path!r} to be a Collector, got a {type(found).__name__}")
    return found


def require_distinct(collectors: Sequence[Collector]) -> None:
    """Raises SettingsError where two collectors have one name, or two own one metric."""
    names: set[str] = set()
    owners: dict[str, str] = {}
    for collector in collectors:
        if collector.name in names:
            raise SettingsError(f"setting nissa.collectors: two collectors are named {collector.name!r}")
        names.add(collector.name)
        for family in collector.families:
            owner = owners.setdefault(family.name, collector.name)
            if owner != collector.name:
                raise SettingsError(f"setting nissa.collectors: {owner!r} and {collector.name!r} both own the metric {family.name}")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a collector does: how often it came back, failed and hung, how long it took last, when it gave samples last, what went wrong."""

    collector: Collector
    ok: int
    failed: int
    hung: int
    duration_s: float | None
    succeeded_at: float | None
    error: str | None


class Running:
    """One collector at work."""

    def __init__(self, collector: Collector, model: Model, clock: Callable[[], float] = time.monotonic) -> None:
        self._collector = collector
        self._clock = clock
        self._model = model
        self._lock = threading.Lock()
        self._samples: tuple[Sample, ...] = ()
        self._ok = self._failed = self._hung = 0
        self._duration_s: float | None = None
        self._succeeded_at: float | None = None
        self._succeeded_mono = 0.0
        self._error: str | None = None
        self._since: float | None = None
        self._late = False

    def run_once(self) -> None:
        """Collects now. What goes wrong is counted, whatever it is: the collector may be anybody's."""
        with self._lock:
            self._since, self._late = self._clock(), False
            began = self._since
        try:
            samples = tuple(self._checked(self._collector.collect(self._model)))
            error = None
        except Exception as caught:
            samples, error = (), f"{type(caught).__name__}: {caught}"
        with self._lock:
            now = self._clock()
            self._since, self._duration_s, self._error = None, now - began, error
            if error is not None:
                self._failed += 1
                return
            self._ok += 1
            self._samples, self._succeeded_at, self._succeeded_mono = samples, time.time(), now

    def samples(self) -> tuple[Sample, ...]:
        """What was collected last; nothing once that is too old."""
        with self._lock:
            old = self._succeeded_at is None or self._clock() - self._succeeded_mono > self._collector.patience_s
            return () if old else self._samples

    def standing(self) -> Standing:
        """How it does. A call that takes too long is counted as hanging, once."""
        with self._lock:
            if self._since is not None and not self._late and self._clock() - self._since > self._collector.patience_s:
                self._late = True
                self._hung += 1
            return Standing(self._collector, self._ok, self._failed, self._hung, self._duration_s, self._succeeded_at, self._error)

    def _checked(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        owned = set(self._collector.families)
        for sample in samples:
            if sample.family not in owned:
                raise SettingsError(f"collector {self._collector.name!r} gave {sample.family.name}, which it does not own")
            if len(sample.labels) != len(sample.family.labels):
                raise SettingsError(f"collector {self._collector.name!r} gave {sample.family.name} with {len(sample.labels)} labels")
            yield sample


class Collectors:
    """All collectors, each on its own thread between `start` and `stop`."""

    def __init__(self, collectors: Sequence[Collector], model: Model) -> None:
        require_distinct(collectors)
        self._running = tuple(Running(collector, model) for collector in collectors)
        self._stopping = threading.Event()

    @property
    def families(self) -> tuple[Family, ...]:
        """The metrics of all of them."""
        return tuple(family for running in self._running for family in running.standing().collector.families)

    def start(self) -> None:
        """Starts every collector. A thread that hangs is a daemon's: it does not keep the process from ending."""
        for running in self._running:
            name = f"esper-collector-{running.standing().collector.name}"
            threading.Thread(target=self._run, args=(running,), name=name, daemon=True).start()

    def stop(self) -> None:
        """Starts no collector again."""
        self._stopping.set()

    def run_once(self) -> None:
        """Lets every collector collect once, one after another, on the calling thread."""
        for running in self._running:
            running.run_once()

    def samples(self) -> list[Sample]:
        """What all of them gave last."""
        return [sample for running in self._running for sample in running.samples()]

    def standings(self) -> tuple[Standing, ...]:
        """How each does."""
        return tuple(running.standing() for running in self._running)

    def _run(self, running: Running) -> None:
        interval_s = running.standing().collector.interval_s
        while not self._stopping.is_set():
            running.run_once()
            self._stopping.wait(interval_s)
