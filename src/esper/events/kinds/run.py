"""A run from its start to its end: settings, checkpoints, rollbacks, dropped samples, its end."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from esper.events import topics
from esper.events.fields import VOLATILE, CheckpointName, Count, Digest, Event, Float, Metrics, NonNegative, Part
from esper.events.kinds.lifecycle import SeedRows


class Code(Part):
    """The code that ran: its revision, and a digest of uncommitted changes."""

    revision: str | None
    """Of the version control system; null outside of one."""
    dirty_digest: Digest | None
    """Of uncommitted changes; null: there are none, or it is not known."""
    argv: Annotated[tuple[str, ...] | None, VOLATILE]
    """The command line, secrets masked; null: it was not to be recorded."""


class DataFingerprint(Part):
    """A data set: its name, length and class, and sha256 over strided samples; absent where samples cannot be indexed."""

    name: str
    length: Count | None
    """Samples; null for a stream."""
    kind: str
    """The class of the data set."""
    digest: Digest | None


class Determinism(Part):
    """Measures by which the same settings give the same numbers."""

    threads: Count
    deterministic_algorithms: bool
    """True: torch refuses algorithms that are not deterministic."""
    mkl_cbwr: Annotated[str | None, VOLATILE]
    """The code path that MKL says it is pinned to, like `AVX2,STRICT`; null: to none, or there is no MKL."""
    variables: Annotated[dict[str, str], VOLATILE]
    """Those of the environment that torch and its libraries read, as they were when Esper was imported; of cuBLAS, when training began."""
    digest: Literal["full", "parameters", "off"]
    """Digests of the training state that every epoch records."""


class Hardware(Part):
    """The machine. `gpus` is empty where there is no driver."""

    machine: str
    processor: str
    cores: Count
    memory_bytes: Count
    operating_system: str
    device: str
    """The device that torch trains on, by torch's name."""
    gpus: tuple[str, ...]


class Site(Part):
    """A layer of the host where seeds may live."""

    name: str
    layer: str
    """The layer in words, for example `Linear 64->6`."""
    inputs: Count
    outputs: Count
    slots: Count
    """Seeds that may live here at once."""
    blueprints: tuple[str, ...]
    """Blueprints that may be tried here."""


PairsOf = Literal["samples", "unreduced", "pieces_of_outputs", "pieces_of_batches", "batches"]


class Pairs(Part):
    """The parts of the validation data whose losses are compared without and with a seed; `docs/training.md` has the ways to them."""

    of: PairsOf
    """The part: a sample, as the loss gives it or is asked for it, or a piece of a batch, or a batch."""
    count: Count
    pieces: Count
    """Pieces of a batch; 1: it is not cut."""
    reason: str
    """Why these and no other, in words."""


class RunStarted(Event, kind="esper.run.started.v1", topic=topics.RUN):
    """A run began, with everything that is needed to run it again. Settings are complete, defaults included."""

    task: str
    settings: dict[str, JsonValue]
    code: Code
    packages: dict[str, str]
    """Versions of what was installed, by name."""
    data: tuple[DataFingerprint, ...]
    rng_seed: int
    """The number that every random stream of the run begins from."""
    determinism: Determinism
    hardware: Hardware
    sites: tuple[Site, ...]
    passed_over: Annotated[dict[str, str], VOLATILE]
    """Layers that sites = "auto" does not take, by name, with the reason; empty where sites were named."""
    pairs: Pairs | None
    """By what seeds are judged; null: nothing may grow."""
    parameters: Count
    """Of the host before anything grew."""
    epochs: Count | None
    """Planned; null for a stream."""
    by: Annotated[str | None, VOLATILE]
    """The person who started the run, as given; null: not said."""
    approved_by: Annotated[str | None, VOLATILE]
    """The person who approved its limits, as given; null: not said."""
    account: Annotated[str | None, VOLATILE]
    """The operating system's account that its process ran under; null: unknown."""
    name: Annotated[str | None, VOLATILE] = None
    """The user's name for the run; other runs may have it too. Null: not said."""
    tags: Annotated[tuple[str, ...], VOLATILE] = ()
    """The user's, as given, each once."""
    notes: Annotated[str | None, VOLATILE] = None
    """The user's note; null: not said."""
    config: Annotated[dict[str, JsonValue], VOLATILE] = Field(default_factory=dict)
    """Values of the user's own, secrets masked; no part of Esper reads them."""


class RunResumed(Event, kind="esper.run.resumed.v1", topic=topics.RUN):
    """A run goes on after an interruption, from `checkpoint` (null: from the first epoch)."""

    checkpoint: CheckpointName | None
    caught_up_to: Count
    """The last moment of the log up to which training caught up."""
    incarnation: Count
    """In force from this record on."""
    environment_changes: tuple[str, ...]
    """Differences from the start, a sentence each."""


class SiteFrozen(Event, kind="esper.site.frozen.v1", topic=topics.RUN):
    """Nothing can grow at a site from this step on, and its seeds that are not in the host's output yet are culled; training goes on."""

    site: str
    reason: str
    """The way in which a pass used the layer that no seed can learn from."""


class CheckpointSaved(Event, kind="esper.checkpoint.saved.v1", topic=topics.RUN):
    """A checkpoint of the start of the next epoch is on disk under the run's `checkpoints/`; `digest` covers all of its files."""

    checkpoint: CheckpointName
    """Its name under the run's `checkpoints/`."""
    digest: Digest
    size_bytes: Annotated[Count, VOLATILE]
    """Of its files."""
    reason: Literal["start", "due", "before_grafting", "end"]
    duration_s: Annotated[NonNegative, VOLATILE]


class CheckpointPruned(Event, kind="esper.checkpoint.pruned.v1", topic=topics.RUN):
    """A checkpoint is no longer kept; its files may be gone from here on."""

    checkpoint: CheckpointName
    reason: str


class BlamedSeed(Part):
    """The seed whose alpha changed last since the checkpoint."""

    site: str
    seed: Count


class RunRolledBack(Event, kind="esper.run.rolled-back.v1", topic=topics.RUN):
    """Training went back to a checkpoint. `seeds` is the whole seed table now in force; epochs and steps count on."""

    from_epoch: Count
    """The epoch that training had reached."""
    to_epoch: Count
    """The epoch at whose end the checkpoint was made."""
    checkpoint: CheckpointName
    reason: str
    blamed: BlamedSeed | None
    """Null where no alpha changed since the checkpoint."""
    seeds: SeedRows


class SamplesDropped(Event, kind="esper.samples.dropped.v1", topic=topics.RUN):
    """Telemetry that found no room before it was taken; it has no number and leaves no gap."""

    topic: str
    """The topic of the dropped samples."""
    count: Count
    first_step: Count
    last_step: Count


class ClockJumped(Event, kind="esper.clock.jumped.v1", topic=topics.RUN):
    """The machine's clock and the time that passed went apart, or are together again. Times of records go on with the time that passed."""

    apart_s: Float
    """The machine's clock minus the time of the records before this one; positive where the clock is ahead."""
    followed: bool
    """True: from this record on times are the machine's clock's again; false: they are not."""


class Tail(Part):
    """The end of a topic: its last sequence and chain (hex). Both depend on the times written, not on the training."""

    topic: str
    sequence: Count
    chain: str


_Tails = Annotated[tuple[Tail, ...], VOLATILE]


class RunFinished(Event, kind="esper.run.finished.v1", topic=topics.RUN):
    """A run came to its planned end. `tails` are of every topic, of this one as it stood before this record."""

    metrics: Metrics
    model_digest: Digest
    """sha256 over the final model."""
    parameters: Count
    """Of the host with what has grown into it."""
    stopped_early: bool
    """It ended before its last planned epoch, as its settings ask."""
    tails: _Tails


class RunFailed(Event, kind="esper.run.failed.v1", topic=topics.RUN):
    """A run ended without reaching its plan. `kind` is the class of failure, `error` the full text."""

    kind: Literal["error", "diverged", "rollbacks", "log"]
    error: Annotated[str, VOLATILE]
    where: str
    """The place in words; of an execution that diverged: topic, sequence and field."""
    tails: _Tails


class StreamEnded(Event, kind="esper.stream.ended.v1", topic="*"):
    """The last record of a topic before the run ends: closes its windows and resolves its alerts.

    Stands in every topic of facts or telemetry, once a run finishes, fails or is stopped. The run's own topic has one only where the run
    is stopped: it ends with RunFinished or RunFailed. A resumed run goes on after it.
    """

    last_step: Count
    """The last step in the topic."""
