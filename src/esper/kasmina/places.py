"""A site with what stands in it: its layer, its growth, its slots, the blueprints that fit; and adopting all of a model's sites."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from esper.events.kinds.run import Site
from esper.folds.lifecycle import ISOLATED
from esper.kasmina import sites
from esper.kasmina.blueprints import Blueprint, Shape, shape_of
from esper.kasmina.branch import Branch
from esper.kasmina.finding import Sites
from esper.kasmina.kernels import parameter_count
from esper.kasmina.slots import Slot


@dataclass(eq=False)
class Place:
    """A site, its layer, what the layer knows of it, and its slots."""

    site: Site
    layer: nn.Module
    growth: sites.Growth
    shape: Shape
    blueprints: dict[str, Blueprint]
    slots: list[Slot]

    @property
    def weight(self) -> Tensor:
        """The layer's weight: it says where and in which dtype a body has to be."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    @cached_property
    def sizes(self) -> dict[str, int]:
        """How many parameters a seed of each blueprint has."""
        return sizes_at(self.site.name, self.layer, self.blueprints.values())

    @property
    def silent(self) -> frozenset[int]:
        """The slots whose seeds were disabled."""
        return frozenset(slot.seed for slot in self.slots if slot.recovering)

    @property
    def has_pupils(self) -> bool:
        """True if a seed learns here beside the host."""
        return any(slot.stage in ISOLATED and slot.branch is not None for slot in self.slots)

    def rewire(self) -> None:
        """Puts in force what the alphas and the disabled seeds say."""
        self.growth.rewire(self.silent)

    def settle(self, branch: Branch) -> Branch:
        """The branch where its layer is, in its layer's mode."""
        branch.train(self.layer.training)
        return branch.to(self.weight.device)


def sizes_at(site: str, layer: nn.Module, blueprints: Iterable[Blueprint]) -> dict[str, int]:
    """How many parameters a seed of each of `blueprints` would have beside `layer`, by name."""
    shape = shape_of(layer)
    assert shape is not None
    return {blueprint.name: parameter_count(blueprint.spec(site, shape)) for blueprint in blueprints}


def adopt_all(found: Sites, slots: int) -> dict[str, Place]:
    """The places of what `finding.find` found, adopted, by name."""
    places = {}
    for name, layer, blueprints in found:
        shape = shape_of(layer)
        assert shape is not None
        names = {blueprint.name: blueprint for blueprint in blueprints}
        site = Site(name=name, layer=shape.text, inputs=shape.inputs, outputs=shape.outputs, slots=slots, blueprints=tuple(names))
        places[name] = Place(site, layer, sites.adopt(layer, name), shape, names, [Slot(site=name, seed=seed) for seed in range(slots)])
    return places
