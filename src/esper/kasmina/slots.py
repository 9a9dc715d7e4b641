"""The seed table: the state of each slot and of the seed in it, and its form in a checkpoint; sites with their layers and slots."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.events.kinds.run import Site
from esper.folds.transitions import ISOLATED
from esper.kasmina import site_layer
from esper.kasmina.blueprints import Blueprint, Layer
from esper.kasmina.branch import Branch
from esper.kasmina.compiler import KernelRequest, parameter_count

FORMAT: Literal[1] = 1


class Slot(BaseModel):
    """State of one slot, as a checkpoint holds it without the body; a reset clears `life` and the fields after it.

    `errors` counts non-finite values that the seed made, `skipped` micro-batches that could not teach it, by the host's fault.
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
        return SeedRow(
            site=self.site,
            seed=self.seed,
            stage=self.stage,
            since_epoch=self.since_epoch,
            life=self.life,
            blueprint=self.blueprint,
            kernel=self.kernel,
            embargo_until=self.embargo_until,
            alpha=self.alpha,
            recovering=self.recovering,
            errors=self.errors,
        )

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
        self.__dict__.update(Slot(**kept).__dict__)


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    format: Literal[1]
    lr: float | None
    slots: tuple[Slot, ...]


def dump(lr: float | None, slots: list[Slot]) -> JsonValue:
    """The seed table and the host's learning rate: everything but bodies and optimizers."""
    table: JsonValue = _Table(format=FORMAT, lr=lr, slots=tuple(slots)).model_dump(mode="json", by_alias=True)
    return table


def parse(state: JsonValue) -> tuple[float | None, list[Slot]]:
    """(learning rate, slots without bodies) of what `dump` gave. Raises DataError."""
    try:
        table = _Table.model_validate_json(json.dumps(state))
    except ValidationError as error:
        raise DataError(f"expected a seed table of format {FORMAT}: {error}") from error
    return table.lr, list(table.slots)


@dataclass(eq=False)
class HostSite:
    """A site with its layer, the layer's state, the blueprints that fit, and its slots."""

    site: Site
    layer: Layer
    growth: site_layer.SiteState
    blueprints: dict[str, Blueprint]
    slots: list[Slot]

    @property
    def weight(self) -> Tensor:
        """The layer's weight: a body has its device and dtype."""
        return self.layer.weight

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of parameters of a seed of each blueprint."""
        return sizes_at(self.site.name, self.layer, self.blueprints.values())

    @property
    def disabled(self) -> frozenset[int]:
        """The slots whose seeds were disabled."""
        return frozenset(slot.seed for slot in self.slots if slot.recovering)

    @property
    def has_isolated_seeds(self) -> bool:
        """A seed learns here beside the host."""
        return any(slot.stage in ISOLATED and slot.branch is not None for slot in self.slots)

    def rewire(self) -> None:
        """Attach or detach each branch according to its alpha, and detach disabled seeds."""
        self.growth.rewire(self.disabled)

    def settle(self, branch: Branch) -> Branch:
        """The branch where its layer is, in its layer's mode."""
        branch.train(self.layer.training)
        return branch.to(self.weight.device)


def sizes_at(site: str, layer: Layer, blueprints: Iterable[Blueprint]) -> dict[str, int]:
    """Number of parameters of a seed of each of `blueprints` beside `layer`, by name."""
    return {blueprint.name: parameter_count(blueprint.spec(site, layer)) for blueprint in blueprints}
