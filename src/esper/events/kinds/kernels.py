"""A blueprint on its way to a kernel: submitted, compiled or failed, characterized."""

from typing import Annotated

from esper.events import topics
from esper.events.fields import VOLATILE, Count, Digest, Event, NonNegative
from esper.events.kinds.lifecycle import OfLife


class BlueprintSubmitted(OfLife, kind="esper.blueprint.submitted.v1", topic=topics.BLUEPRINTS):
    """A blueprint was sent to be compiled for a seed. `key` is sha256 over format, spec, rng seed and dtype; `spec` is canonical JSON."""

    blueprint: str
    """Its name with its size, for example `mlp:24`."""
    key: Digest
    spec: str


class KernelCompiled(OfLife, kind="esper.kernel.compiled.v1", topic=topics.KERNELS_READY):
    """A kernel is ready under `key`; `kernel` is the digest of its file. Duration and cache hit depend on the machine, not on the run."""

    key: Digest
    kernel: Digest
    duration_ms: Annotated[NonNegative, VOLATILE]
    from_cache: Annotated[bool, VOLATILE]


class KernelCompileFailed(OfLife, kind="esper.kernel.compile-failed.v1", topic=topics.KERNELS_READY):
    """A blueprint could not be compiled, for the reason in `error`."""

    key: Digest
    error: Annotated[str, VOLATILE]


class KernelCharacterized(Event, kind="esper.kernel.characterized.v1", topic=topics.CHARACTERIZED):
    """Costs of a kernel and the checks that it passed. FLOPs are for one forward at batch 1."""

    key: Digest
    kernel: Digest
    parameters: Count
    flops: Count
    latency_ms: Annotated[NonNegative, VOLATILE]
    memory_bytes: Count
    """Of its parameters."""
    checks: tuple[str, ...]
    """The names of those it passed."""
