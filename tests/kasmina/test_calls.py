"""One pass shows which layers can be sites, and leaves no trace in the model."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.errors import SettingsError
from esper.kasmina.calls import Calls, calls_of
from esper.kasmina.growth import GrowthSettings, find_sites


class Model(nn.Module):
    """Four layers of one size, and batch norm; `way` is the pass from the first to the last."""

    def __init__(self, way: "Callable[[Model, Tensor], Tensor]") -> None:
        super().__init__()
        self.entry, self.middle, self.other, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.norm = nn.BatchNorm1d(4)
        self._way = way
        self.passes = 0
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.seen.append(x)
        self.last = x
        found: Tensor = self.head(self._way(self, self.norm(self.entry(x))))
        return found


def without_gradient(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.middle(x)  # type: ignore[no-any-return] # nn.Module's.


def seen_from(model: nn.Module) -> Calls:
    return calls_of(model, lambda inner: inner(torch.randn(8, 4)).square())


WAYS: dict[str, tuple[Callable[[Model, Tensor], Tensor], str]] = {  # A pass, and why `middle` is passed over.
    "twice": (lambda m, x: m.middle(m.middle(x)), "one pass calls it 2 times"),
    "bypassed": (lambda m, x: F.linear(x, m.middle.weight, m.middle.bias), "its weight is read without calling it"),
    "read as well": (lambda m, x: m.middle(x) @ m.middle.weight, "its weight is read by others too"),
    "without a gradient": (without_gradient, "it is called where no gradient is recorded"),
    "reentrant": (lambda m, x: checkpoint(m.middle, x, use_reentrant=True), "it is called where no gradient is recorded"),
    "not at all": (lambda _m, x: x, "a pass does not call it"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_layer_that_cannot_be_a_site_is_passed_over_with_the_reason(way: str) -> None:
    model = Model(WAYS[way][0])
    sites, passed_over = find_sites(model, GrowthSettings(), "auto", seen_from(model))
    assert "middle" not in [site.name for site in sites]
    assert passed_over["middle"].startswith(WAYS[way][1])


@pytest.mark.parametrize("way", ["twice", "bypassed", "without a gradient"])
def test_a_layer_that_cannot_be_a_site_is_refused_where_it_is_named(way: str) -> None:
    model = Model(WAYS[way][0])
    with pytest.raises(SettingsError, match=f"got 'middle': {WAYS[way][1]}"):
        find_sites(model, GrowthSettings(), "middle", seen_from(model))


def test_a_layer_that_one_pass_did_not_call_may_be_named_all_the_same() -> None:
    model = Model(WAYS["not at all"][0])
    assert [site.name for site in find_sites(model, GrowthSettings(), "middle", seen_from(model))[0]] == ["middle"]


def test_checkpointing_that_is_not_reentrant_hinders_nothing() -> None:
    model = Model(lambda m, x: checkpoint(m.middle, x, use_reentrant=False))
    assert "middle" in [site.name for site in find_sites(model, GrowthSettings(), "auto", seen_from(model))[0]]


def test_the_last_layer_is_the_one_that_is_called_last() -> None:
    model = Model(lambda _m, x: x)
    model.register_module("decoder", nn.Linear(4, 4))
    sites, passed_over = find_sites(model, GrowthSettings(), "auto", seen_from(model))
    assert [site.name for site in sites] == ["entry"]
    assert passed_over["head"] == "its outputs are the model's own"


def test_the_frozen_layers_before_a_new_head_can_grow() -> None:
    model = Model(lambda m, x: m.other(m.middle(x)))
    for part in (model.entry, model.middle, model.other, model.norm):
        part.requires_grad_(False)
    sites, passed_over = find_sites(model, GrowthSettings(), "auto", seen_from(model))
    assert [site.name for site in sites] == ["middle", "other"]
    assert passed_over == {"entry": "it is frozen", "head": "its outputs are the model's own"}


def test_a_pass_leaves_no_trace() -> None:
    model = Model(lambda m, x: m.middle(x)).eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    held = {name: value for name, value in vars(model).items() if name != "seen"}
    seen_from(model)
    assert not any(module.training for module in model.modules())
    assert {name: value for name, value in vars(model).items() if name != "seen"} == held
    assert (model.passes, model.seen, hasattr(model, "last")) == (0, [], False)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(not module._forward_hooks for module in model.modules())
