"""The slots of a host: the seed in each, its row in events and checkpoints, and the steps in which it learns.

**Isolation.** A seed in TRAINING learns from its site's captures, after the host's own step: `autograd.grad` on detached tensors, in
float32, within `forked`: host parameters, buffers, optimizer state and random state go exactly where they would have gone without it.
**Objective: local.** Regress t = -g * std(y) / rms(g), g = dL/dy, on the layer's input: the direction in which the output should move, at
the output's own size. Not the raw gradient (its size is about 1/batch), not the straight-through estimator (alpha 1 after 12 isolated
epochs multiplied the loss by 13.5), not self-reconstruction (no gain): measured.
**Accumulation.** Each micro-batch has its own target; their gradients are averaged, weighted by samples as the host's are,
and the seed steps once per step of the host, so that accumulating changes neither the number of its steps nor what its learning rate means.
"""

import json
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.kasmina.branch import Branch
from esper.kasmina.compiler import KernelRequest, parameter_count

_STEPPING = frozenset({Stage.GRAFTING, Stage.FINE_TUNING, Stage.FOSSILIZED})


class HostSlot(BaseModel):
    """State of one slot, as a checkpoint holds it without the body; a reset clears `life` and the fields after it.

    `errors` counts non-finite values that the seed made, `skipped` micro-batches without an input and gradient that it could learn from.
    """

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, validate_by_name=True)
    site: str
    seed: int
    stage: Stage = Stage.DORMANT
    since_epoch: int = 0
    embargo_until: int | None = None
    life: int | None = None
    blueprint: str | None = None
    request: KernelRequest | None = Field(default=None, alias="order")
    kernel: str | None = None
    lr: float | None = None
    errors: int = 0
    skipped: int = 0
    recovering: bool = False
    ramp_steps: int = 1
    ramp_done: int = 0
    branch: Branch | None = Field(default=None, exclude=True, repr=False)
    optimizer: Optimizer | None = Field(default=None, exclude=True, repr=False)

    @property
    def row(self) -> SeedRow:
        """The slot as events have it, without what is measured of the seed."""
        return SeedRow(**self.model_dump(include=set(SeedRow.model_fields)), alpha=self.alpha)

    @property
    def name(self) -> str:
        """The seed as people and checkpoints name it."""
        return f"{self.site}/{self.seed}"

    @property
    def alpha(self) -> float | None:
        """Weight of the seed in the host's output, 0..1; None without a body."""
        return None if self.branch is None else self.branch.strength

    @property
    def size(self) -> int:
        """Number of parameters of the seed's body, compiled or not; 0 for an empty slot."""
        return 0 if self.request is None else parameter_count(self.request.spec)

    @property
    def learns_task(self) -> bool:
        """The seed's optimizer steps on the host's loss."""
        return self.stage in _STEPPING

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The body's parameters, as its optimizer has them."""
        return [] if self.optimizer is None else [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def clear_gradients(self) -> None:
        """Clears the body's gradients. (`Optimizer.zero_grad` costs ten times as much for so few.)"""
        for parameter in self.parameters:
            parameter.grad = None

    def fail(self) -> None:
        """Disables the seed until it is culled: it made a non-finite value."""
        self.errors += not self.recovering
        self.recovering = True

    def clear(self) -> None:
        """Clears the seed in this slot; stage, epoch and embargo stay."""
        kept = self.model_dump(include={"site", "seed", "stage", "since_epoch", "embargo_until"})
        self.__dict__.update(HostSlot(**kept).__dict__)

    def isolated_step(self, examples: list[tuple[Tensor, Tensor, int]], clip: float | None) -> None:
        """Step in TRAINING on inputs, targets and numbers of samples; a non-finite loss or gradient disables the seed instead.

        To be called within `forked`: a body may draw random numbers.
        """
        assert self.branch is not None
        parameters, losses, total = self.parameters, [], sum(samples for *_, samples in examples)
        with torch.enable_grad(), torch.autocast(parameters[0].device.type, enabled=False):
            for x, target, samples in examples:
                delta = self.branch.body(x)[1]
                losses.append(nn.functional.mse_loss(delta, target.reshape(delta.shape)) * (samples / total))
            loss = torch.stack(losses).sum()
            gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._step(parameters, clip, loss.detach())

    def task_step(self, clip: float | None, scale: float) -> None:
        """Step in the task graph on the gradients of the host's backward pass; `scale` is the factor of the loss."""
        parameters = [parameter for parameter in self.parameters if parameter.grad is not None]
        if not parameters:
            return
        if scale != 1.0:
            torch._foreach_mul_([parameter.grad for parameter in parameters if parameter.grad is not None], 1.0 / scale)
        self._step(parameters, clip, torch.zeros((), device=parameters[0].device))

    def _step(self, parameters: list[nn.Parameter], clip: float | None, loss: Tensor) -> None:
        """Clips by the seed's own norm and steps its own optimizer, unless something is not finite. The CPU waits for the device here."""
        assert self.optimizer is not None
        norm = nn.utils.clip_grad_norm_(parameters, float("inf") if clip is None else clip)
        if bool(torch.isfinite(norm + loss)):
            self.optimizer.step()
        else:
            self.fail()
        self.clear_gradients()


class SeedTable(BaseModel):
    """State of a host's slots and its learning rate, as a checkpoint holds them without bodies and optimizers."""

    model_config = ConfigDict(strict=True, extra="forbid")
    format: Literal[1]
    lr: float | None
    slots: tuple[HostSlot, ...]
    frozen: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def from_json(cls, state: JsonValue) -> "SeedTable":
        """The table that was dumped as JSON, by alias. Raises DataError."""
        try:
            return cls.model_validate_json(json.dumps(state))
        except ValidationError as error:
            raise DataError(f"expected a seed table of format 1: {error}") from error
