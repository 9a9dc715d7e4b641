"""The seed table: what is known of each slot and of the life in it, and how that is written into a checkpoint and read back."""

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import nn
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.kinds.lifecycle import Stage
from esper.kasmina.branch import Branch
from esper.kasmina.kernels import Order, parameter_count

FORMAT: Literal[1] = 1


class Slot(BaseModel):
    """What is known of one slot, as a checkpoint has it but for the body; `life` and what follows go when it is reset.

    `errors` counts non-finite values that the seed made, `skipped` micro-batches that could not teach it, by the host's fault.
    """

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    site: str
    seed: int
    stage: Stage = Stage.DORMANT
    since_epoch: int = 0
    embargo_until: int | None = None
    life: int | None = None
    blueprint: str | None = None
    order: Order | None = None
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
    def name(self) -> str:
        """The seed as people and checkpoints name it."""
        return f"{self.site}/{self.seed}"

    @property
    def alpha(self) -> float | None:
        """How much of the seed is in the host's output; None without a body."""
        return None if self.branch is None else self.branch.strength

    @property
    def size(self) -> int:
        """How many parameters the seed's body has or will have; 0 for an empty slot."""
        return 0 if self.order is None else parameter_count(self.order.spec)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The body's parameters, as its optimizer has them."""
        return [] if self.optimizer is None else [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def clear_gradients(self) -> None:
        """Forgets the body's gradients. (`Optimizer.zero_grad` costs ten times as much for so few.)"""
        for parameter in self.parameters:
            parameter.grad = None

    def fail(self) -> None:
        """Disables the seed until it is culled: it made a non-finite value."""
        self.errors += not self.recovering
        self.recovering = True

    def clear(self) -> None:
        """Forgets the life in this slot; stage, epoch and embargo stay."""
        kept = self.model_dump(include={"site", "seed", "stage", "since_epoch", "embargo_until"})
        self.__dict__.update(Slot(**kept).__dict__)


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    format: Literal[1]
    lr: float | None
    slots: tuple[Slot, ...]


def dump(lr: float | None, slots: list[Slot]) -> JsonValue:
    """The seed table and the host's learning rate: everything but bodies and optimizers."""
    table: JsonValue = _Table(format=FORMAT, lr=lr, slots=tuple(slots)).model_dump(mode="json")
    return table


def parse(state: JsonValue) -> tuple[float | None, list[Slot]]:
    """(learning rate, slots without bodies) of what `dump` gave. Raises DataError."""
    try:
        table = _Table.model_validate_json(json.dumps(state))
    except ValidationError as error:
        raise DataError(f"expected a seed table of format {FORMAT}: {error}") from error
    return table.lr, list(table.slots)
