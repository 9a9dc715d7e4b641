"""Which layers become sites, and which are refused by name."""

import pytest
import torch
from torch import nn

from esper.errors import SettingsError
from esper.kasmina.growth import AUTO_SITES, Choice, GrowthSettings, find_sites


def names(model: nn.Module, choice: Choice, *blueprints: str) -> list[str]:
    return [site.name for site in find_sites(model, GrowthSettings(blueprints=blueprints or None), choice)[0]]


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.left, self.right = block(), block()
        self.head = nn.Linear(16, 2)


def test_auto_takes_trainable_linear_and_conv_layers_but_the_last() -> None:
    model = Tower()
    model.left.requires_grad_(False)
    assert names(model, "auto") == ["stem", "right.0", "right.2"]


def test_auto_takes_only_layers_that_a_blueprint_fits() -> None:
    assert names(Tower(), "auto", "conv:4") == ["stem"]


def test_auto_spreads_over_a_deep_model() -> None:
    found = names(nn.Sequential(*(nn.Linear(12, 12) for _ in range(101))), "auto")
    assert len(found) <= AUTO_SITES
    assert found[0] == "0"
    assert int(found[-1]) > 90


def test_auto_passes_over_layers_that_are_never_called() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoderLayer(16, 2, dim_feedforward=16), nn.Linear(16, 2))
    assert names(model, "auto") == ["0"]


def test_auto_without_a_layer_that_can_grow_is_refused() -> None:
    words = r"can grow, got one in which '0' cannot \(its outputs are the model's own\); grow=None .* records the training all the same"
    with pytest.raises(SettingsError, match=words):
        names(nn.Sequential(nn.Linear(4, 2)), "auto")


def test_a_model_without_layers_and_a_script_say_what_is_missing() -> None:
    with pytest.raises(SettingsError, match="got a Embedding without any; grow=None"):
        names(nn.Embedding(4, 2), "auto")
    with pytest.warns(FutureWarning, match="deprecated"):
        script = torch.jit.script(nn.Linear(4, 2))
    with pytest.raises(SettingsError, match=r"got a torch.jit script, .*: give the model that was scripted; grow=None"):
        names(script, "auto")


def compiled(model: nn.Module) -> nn.Module:
    found: object = torch.compile(model)
    assert isinstance(found, nn.Module)
    return found


def test_what_wraps_a_model_or_a_part_of_it_stands_in_no_name() -> None:
    model = nn.Sequential(nn.Linear(16, 16), compiled(block()), nn.Linear(16, 2))
    for wrapped in (model, nn.DataParallel(model), compiled(model), nn.DataParallel(compiled(model))):
        assert names(wrapped, "auto") == ["0", "1.0", "1.2"]


def test_a_glob_takes_the_layers_whose_names_it_matches() -> None:
    assert names(Tower(), "left.*") == ["left.0", "left.2"]


def test_a_type_takes_every_layer_of_it() -> None:
    assert names(Tower(), nn.Conv2d) == ["stem"]


def test_a_function_takes_what_it_is_true_for() -> None:
    assert names(Tower(), lambda name, module: name == "head" and isinstance(module, nn.Linear)) == ["head"]


def test_a_shared_layer_is_one_site() -> None:
    shared = nn.Linear(16, 16)
    assert names(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(16, 2)), nn.Linear) == ["0", "3"]


def test_a_pattern_that_matches_nothing_lists_the_names_that_exist() -> None:
    with pytest.raises(SettingsError, match=r"'encoder\.\*' matches none; the model has 'stem', 'left\.0'"):
        names(Tower(), "encoder.*")


def frozen_forward() -> nn.Module:
    layer = nn.Linear(16, 16)
    layer.forward = lambda input: input  # type: ignore[method-assign] # noqa: A006 - as hooks of other libraries do
    return layer


class Scaled(nn.Linear):
    def forward(self, input: torch.Tensor, scale: float) -> torch.Tensor:  # type: ignore[override] # noqa: A002 - torch's name
        return super().forward(input) * scale


def adopted() -> nn.Module:
    layer = nn.Linear(16, 16)
    find_sites(nn.Sequential(layer), GrowthSettings(), nn.Linear)[0][0].adopt()
    return layer


@pytest.mark.parametrize(
    ("layer", "name", "reason"),
    [
        (frozen_forward(), "site", "a forward of its own"),
        (adopted(), "site", "an earlier training has grown it"),
        (nn.LazyLinear(4), "site", "run the model once"),
        (Scaled(16, 16), "site", "more than the input"),
        (nn.LayerNorm(16), "site", "a LayerNorm cannot be one yet"),
        (nn.BatchNorm1d(16), "site", "a BatchNorm1d cannot be one yet"),
        (nn.MultiheadAttention(16, 2), "site.out_proj", "without calling it"),
        (nn.TransformerEncoderLayer(16, 2), "site.linear1", "without calling it"),
        (nn.Linear(4, 4), "site", "signal needs at least"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_layer_that_cannot_be_a_site_is_refused_by_name(layer: nn.Module, name: str, reason: str) -> None:
    model = nn.Module()
    model.site = layer
    with pytest.raises(SettingsError, match=f"{name}.*{reason}"):
        names(model, name, "signal:4")
