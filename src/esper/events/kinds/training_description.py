"""The training of a run: its model, optimizer, data loaders and source, as code gave them. Learning rates in force stand in each epoch.

What is large or binary never stands here: weights are in checkpoints, data have fingerprints. A text stands here at most to its limit,
and its size and digest are those of the whole.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import JsonValue

from esper.events import topics
from esper.events.fields import VOLATILE, ByColumn, Count, Digest, Event, Part


class Component(Part):
    """An object that code gave to a training: the name of its class or function, and its options."""

    kind: str
    """The class or function, with its module."""
    options: dict[str, JsonValue]
    """Its public attributes that have a plain value; of an object in one of them, its own `kind` and `options`."""
    digest: Digest | None
    """sha256 over the source of the class or function; null: it is of an installed package, or has no source."""


class ParameterGroup(Part):
    """A group of parameters that an optimizer treats alike."""

    parameters: tuple[str, ...] | None
    """Their names in the model; null: all of the model's, in its order."""
    options: dict[str, JsonValue]
    """As they were before the first step, such as `lr` and `weight_decay`."""


class Loader(Part):
    """The batches of a data set, and how they are made from it."""

    name: str
    """`train`, `valid` or `test`."""
    kind: str
    """The class of what is iterated."""
    batch_size: Count | None
    """Samples; null: unknown, or not always the same. Of a list of batches that of the first."""
    batches: Count | None
    """Batches of a pass; null for a stream."""
    sampler: Component | None
    """The order of the samples; null: what is iterated has its own."""
    drop_last: bool | None
    """True: a batch that is not full is left out. Null: unknown."""
    workers: Count | None
    """Processes that load; 0: the one that trains. Null: unknown."""
    options: dict[str, JsonValue]
    """Its other public attributes that have a plain value."""
    dataset: Component | None
    """Null: what is iterated is the data set."""


class Precision(Part):
    """The number formats of a training, as they were set before it began. What code sets while it runs stands in the source alone."""

    parameters: tuple[str, ...]
    """The types of the model's parameters, by torch's names."""
    default: str
    """The type of new tensors."""
    autocast: str | None
    """The type that autocast was on for, around the whole training; null: it was off."""
    float32_matmul: str
    """`highest`: in full; `high` and `medium`: faster, with fewer bits."""
    cudnn_tf32: bool


class ModuleRow(Part):
    """A module of the model, in the order of `named_modules`."""

    name: str
    """Its dotted name; empty: the model itself."""
    kind: str
    """Its class, with its module."""
    shapes: dict[str, tuple[Count, ...]]
    """Of its own parameters, by name."""
    parameters: Count
    """Numbers in its own parameters; those that an earlier row has too are counted there."""
    trainable: Count
    """How many of them an optimizer may change."""
    options: dict[str, JsonValue]
    """Its public attributes that have a plain value, such as `in_features`."""
    same_as: str | None
    """The name of an earlier row that is the same module; null: there is none."""


class Model(Part):
    """The model before anything grew in it."""

    kind: str
    digest: Digest
    """sha256 over all rows of the table as canonical JSON: equal for equal structures, whatever the weights are."""
    parameters: Count
    trainable: Count
    modules: Annotated[Sequence[ModuleRow], ByColumn()]
    """The first 5,000; the digest is over all."""
    left_out: Count
    """Modules beyond those."""


class Source(Part):
    """A text of the source that ran: uncommitted changes as a diff, or a file that version control does not know. Secrets are `***`."""

    name: str
    """`git diff`, or the file's name."""
    text: str | None
    """Null: it is no text, or the limit for all sources was reached before it."""
    size_bytes: Count
    """Of the whole, as it was found."""
    digest: Digest
    """sha256 over the whole, as it was found."""
    complete: bool
    """True: the text is the whole, but for secrets."""
    masked: Count
    """Secrets that were replaced in the text."""


class TrainingDescribed(Event, kind="esper.training.described.v1", topic=topics.RUN):
    """The training of a run as code gave it. Follows RunStarted; and RunResumed, where the code that goes on gives something else."""

    model: Model
    optimizer: Component
    groups: tuple[ParameterGroup, ...]
    scheduler: Component | None
    loss: Component | None
    """The function of output and target that is minimised; null: an objective is."""
    objective: Component | None
    """The function of model and batch that is minimised; null: a loss is."""
    metrics: dict[str, Component]
    loaders: tuple[Loader, ...]
    precision: Precision
    policy: Component | None
    """In place of the one that the settings name; null: that one."""
    sources: Annotated[tuple[Source, ...] | None, VOLATILE]
    """Source that a revision does not give, at most 256 KiB in all; null: it was not to be recorded."""
