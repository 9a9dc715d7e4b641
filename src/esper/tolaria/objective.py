"""Objectives of a training, over batches of any shape.

A batch is a tensor, or a tuple, list or dict of batches; its size is the first dimension of the first tensor in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn

from esper.errors import DataError, SettingsError
from esper.tolaria.user_code import Noted, named

Batch = object
Batches = Iterable[Batch]
Loss = Callable[[Tensor, Tensor], Tensor]
Metric = Callable[[Tensor, Tensor], Tensor | SupportsFloat]
Objective = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]
"""Losses of a model on a batch, [N] of its samples or a scalar, their mean; and metrics by name, likewise."""


@dataclass(frozen=True)
class Supervised:
    """`loss(model(inputs), targets)` on batches of (inputs, targets); `metrics` take the same (output, target)."""

    loss: Loss
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "loss" in self.metrics:
            raise SettingsError("expected metrics of other names than 'loss', which is the loss's own")

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and every metric of one output."""
        return self.of_output(*self.output(model, batch))

    def output(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The model's output, and the targets."""
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(f"expected batches of (inputs, targets) with loss=, got {named(batch)}: use objective= for other batches")
        inputs, targets = batch
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor) and targets.dim() == 0:
            raise DataError(
                f"expected batches with loss=, got one sample, {named(inputs)}, whose target is a number: give a DataLoader of them"
            )
        with Noted("raised by the model"):
            return model(inputs), targets

    def of_output(self, output: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and every metric."""
        with Noted("raised by the loss"):
            loss = _require_loss("loss", self._loss(output, targets))
        return loss, {name: self._metric(name, output, targets, loss) for name in self.metrics}

    def _loss(self, output: Tensor, targets: Tensor) -> object:
        try:
            return self.loss(output, targets)
        except Exception as error:
            if isinstance(output, Tensor):
                raise
            raise SettingsError(
                f"expected a model that returns one tensor with loss=, got {named(output)}, which the loss refuses: "
                "objective=lambda model, batch: loss(model(batch[0])[0], batch[1]), for example"
            ) from error

    def _metric(self, name: str, output: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
        with Noted(f"raised by the metric {name!r}"):
            value = self.metrics[name](output, targets)
        if isinstance(value, Tensor):
            return value
        if not isinstance(value, SupportsFloat):
            raise SettingsError(f"metric {name!r}: expected a tensor or a number, got {named(value)}")
        return torch.tensor(float(value), device=loss.device)


@dataclass(frozen=True)
class WithoutMetrics:
    """`loss(model, batch)` of the user's own."""

    loss: Callable[[nn.Module, Batch], Tensor]

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and no metrics."""
        with Noted("raised by the objective"):
            return _require_loss("objective", self.loss(model, batch)), {}


def _require_loss(argument: str, loss: object) -> Tensor:
    """`loss`, a tensor that can be minimised. Raises SettingsError."""
    if not isinstance(loss, Tensor):
        hint = ": no .item(), no float()" if isinstance(loss, SupportsFloat) else ""
        raise SettingsError(f"{argument}: expected a function that returns a tensor to minimise, got {named(loss)} from it{hint}")
    if not loss.is_floating_point():
        raise SettingsError(f"{argument}: expected a function that returns a loss of floating point, got {loss.dtype} from it")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise SettingsError(
            f"{argument}: expected a loss that depends on the model's parameters, got one without a gradient: no .detach(), no no_grad"
        )
    return loss


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch with every tensor on `device`; named tuples keep their names."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple | list):
        moved = [to_device(part, device) for part in batch]
        return getattr(batch, "_make", tuple)(moved) if isinstance(batch, tuple) else moved
    if isinstance(batch, Mapping):
        return {name: to_device(part, device) for name, part in batch.items()}
    return batch


def size_of(batch: Batch) -> int:
    """Number of samples in the batch. Raises DataError for none, or without a tensor with a first dimension."""
    tensor = next(tensors_of(batch), None)
    if tensor is None or tensor.dim() == 0:
        raise DataError(f"expected a batch with a tensor whose first dimension are the samples, got a {type(batch).__name__}")
    if len(tensor) == 0:
        raise DataError(f"expected a batch with at least one sample, got {type(batch).__name__} with none")
    return len(tensor)


def piece_of(batch: Batch, size: int, start: int, stop: int) -> Batch:
    """The samples `start` to `stop` of a batch of `size` samples; what is no tensor, array or list of `size` entries is shared by all.

    Raises DataError for a tensor of another length.
    """
    if isinstance(batch, Tensor | np.ndarray):
        if batch.ndim and len(batch) != size:
            raise DataError(f"a tensor of shape {tuple(batch.shape)} does not begin with the {size} samples of its batch")
        return batch[start:stop] if batch.ndim else batch
    if isinstance(batch, Mapping):
        return {name: piece_of(part, size, start, stop) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        if len(batch) == size and not any(isinstance(part, Tensor | np.ndarray | Mapping | tuple | list) for part in batch):
            return batch[start:stop]
        parts = [piece_of(part, size, start, stop) for part in batch]
        return getattr(batch, "_make", tuple)(parts) if isinstance(batch, tuple) else parts
    return batch


def tensors_of(batch: Batch) -> Iterator[Tensor]:
    """The tensors of a batch, in order."""
    if isinstance(batch, Tensor):
        yield batch
    else:
        for part in batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ():
            yield from tensors_of(part)
