"""The seed table: what is known of each slot and of the life in it, and how that is written into a checkpoint and read back."""

import json
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import nn
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.kinds.lifecycle import Stage
from esper.kasmina.branch import Branch
from esper.kasmina.kernels import Order, parameter_count

FORMAT: Literal[1] = 1
ROW = ConfigDict(frozen=True, strict=True, extra="forbid")


@dataclass(eq=False)
class Slot:
    """What is known of one slot; `life` and what follows belong to the life in it, and go when it is reset."""

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
    branch: Branch | None = field(default=None, repr=False)
    optimizer: Optimizer | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The seed as people and checkpoints name it."""
        return f"{self.site}/{self.seed}"

    @property
    def alpha(self) -> float | None:
        """How much of the seed is in the host's output; None without a body."""
        return None if self.branch is None else self.branch.strength

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
        fresh = Slot(self.site, self.seed)
        kept = {"stage": self.stage, "since_epoch": self.since_epoch, "embargo_until": self.embargo_until}
        self.__dict__.update({**fresh.__dict__, **kept})


@dataclass(frozen=True, slots=True)
class SeedInfo:
    """A slot and the life in it, as it is now.

    `errors` counts non-finite values that it made, `skipped` micro-batches that could not teach it, by the host's fault.
    """

    site: str
    seed: int
    stage: Stage
    since_epoch: int
    life: int | None
    blueprint: str | None
    order: Order | None
    kernel: str | None
    alpha: float | None
    lr: float | None
    errors: int
    skipped: int
    recovering: bool
    embargo_until: int | None
    parameters: int


def info_of(slot: Slot) -> SeedInfo:
    """The slot as others may see it."""
    return SeedInfo(
        site=slot.site,
        seed=slot.seed,
        stage=slot.stage,
        since_epoch=slot.since_epoch,
        life=slot.life,
        blueprint=slot.blueprint,
        order=slot.order,
        kernel=slot.kernel,
        alpha=slot.alpha,
        lr=slot.lr,
        errors=slot.errors,
        skipped=slot.skipped,
        recovering=slot.recovering,
        embargo_until=slot.embargo_until,
        parameters=size_of(slot),
    )


def size_of(slot: Slot) -> int:
    """How many parameters the seed's body has or will have; 0 for an empty slot."""
    return 0 if slot.order is None else parameter_count(slot.order.spec)


class _Row(BaseModel):
    model_config = ROW
    site: str
    seed: int
    stage: Stage
    since_epoch: int
    embargo_until: int | None
    life: int | None
    blueprint: str | None
    order: Order | None
    kernel: str | None
    lr: float | None
    errors: int
    skipped: int
    recovering: bool
    ramp_steps: int
    ramp_done: int


class _Table(BaseModel):
    model_config = ROW
    format: Literal[1]
    lr: float | None
    slots: tuple[_Row, ...]


def dump(lr: float | None, slots: list[Slot]) -> JsonValue:
    """The seed table and the host's learning rate: everything but bodies and optimizers."""
    rows = tuple(_Row(**{name: getattr(slot, name) for name in _Row.model_fields}) for slot in slots)
    table: JsonValue = _Table(format=FORMAT, lr=lr, slots=rows).model_dump(mode="json")
    return table


def parse(state: JsonValue) -> tuple[float | None, list[Slot]]:
    """(learning rate, slots without bodies) of what `dump` gave. Raises DataError."""
    try:
        table = _Table.model_validate_json(json.dumps(state))
    except ValidationError as error:
        raise DataError(f"expected a seed table of format {FORMAT}: {error}") from error
    return table.lr, [Slot(**{name: getattr(row, name) for name in _Row.model_fields}) for row in table.slots]
