"""Kernels: compiled or not, found in the cache or not, and what a forward through one costs. The cache throws nothing away."""

from collections.abc import Iterator

from esper.events.envelope import Record
from esper.events.kinds.kernels import BlueprintSubmitted, KernelCharacterized, KernelCompiled, KernelCompileFailed
from esper.nissa.collectors.collector import Collector
from esper.nissa.metrics.family import SECONDS, Family, Sample
from esper.nissa.metrics.model import Handler, Model, Watched

SUBMITTED = Family("esper_kernel_submissions_total", "counter", "Blueprints sent to be compiled.")
COMPILES = Family(
    "esper_kernel_compiles_total", "counter", "Blueprints that were compiled, or could not be.", {"outcome": ("ok", "failed")}
)
HITS = Family("esper_kernel_cache_hits_total", "counter", "Kernels that were found in the cache.")
MISSES = Family("esper_kernel_cache_misses_total", "counter", "Kernels that had to be compiled.")
DURATION = Family("esper_kernel_compile_seconds", "histogram", "How long compiling took, cache hits apart.", buckets=SECONDS)
LATENCY = Family(
    "esper_kernel_latency_seconds",
    "histogram",
    "One forward at batch 1, as kernels were characterized.",
    buckets=(1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 0.1),
)

FAMILIES = (SUBMITTED, COMPILES, HITS, MISSES, DURATION, LATENCY)


def _submitted(model: Model, watched: Watched, _record: Record, _event: BlueprintSubmitted) -> Watched:
    model.tally.add(SUBMITTED)
    return watched


def _compiled(model: Model, watched: Watched, _record: Record, event: KernelCompiled) -> Watched:
    if event.from_cache:
        model.tally.add(HITS)
        return watched
    model.tally.add(MISSES)
    model.tally.add(COMPILES, "ok")
    model.tally.observe(DURATION, event.duration_ms / 1000)
    return watched


def _failed(model: Model, watched: Watched, _record: Record, _event: KernelCompileFailed) -> Watched:
    model.tally.add(MISSES)
    model.tally.add(COMPILES, "failed")
    return watched


def _characterized(model: Model, watched: Watched, _record: Record, event: KernelCharacterized) -> Watched:
    model.tally.observe(LATENCY, event.latency_ms / 1000)
    return watched


HANDLERS: dict[type, Handler] = {
    BlueprintSubmitted: _submitted,
    KernelCompiled: _compiled,
    KernelCompileFailed: _failed,
    KernelCharacterized: _characterized,
}


def collect(model: Model) -> Iterator[Sample]:
    """The samples of `FAMILIES`."""
    yield from model.samples(FAMILIES)


COLLECTOR = Collector("kernels", 1.0, FAMILIES, collect)
