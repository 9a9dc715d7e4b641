"""Blueprints: their names, their specs, and what fits where."""

import json

import pytest
import torch
from torch import nn

from esper.errors import DataError
from esper.kasmina.blueprints import Blueprint, Layer, build, initialise, layer_text

LINEAR = nn.Linear(20, 12, device="meta")
CONV = nn.Conv2d(3, 6, 3, stride=2, padding=1, device="meta")


@pytest.mark.parametrize("name", ["mlp:24", "lowrank:8", "conv:8", "signal:12", "mlp:24:dropout=0.1"])
def test_a_name_is_read_and_written_alike(name: str) -> None:
    assert Blueprint.parse(name).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mlp",
        "mlp:",
        "mlp:0",
        "mlp:-3",
        "mlp:2.5",
        "mlp:²",
        "transformer:4",
        "mlp:24:width=3",
        "mlp:24:dropout=2",
        "lowrank:8:dropout=0.1",
    ],
)
def test_a_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected"):
        Blueprint.parse(text)


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("conv:8", LINEAR, "the input of a convolution"),
        ("mlp:24", CONV, "a vector"),
        ("signal:12", CONV, "a vector"),
        ("signal:12", nn.Linear(4, 12, device="meta"), "at least 10 inputs"),
    ],
)
def test_a_shape_that_does_not_fit_names_site_and_shape(name: str, layer: Layer, reason: str) -> None:
    with pytest.raises(DataError, match=f"'body.3' \\({layer_text(layer)}\\), got {name}: .*{reason}"):
        Blueprint.parse(name).spec("body.3", layer)


def test_a_spec_is_canonical_json_and_does_not_name_the_site() -> None:
    spec = Blueprint.parse("mlp:24").spec("a", LINEAR)
    assert spec == Blueprint.parse("mlp:24").spec("b", LINEAR)
    assert spec == '{"format":1,"hyper":{"width":24},"inputs":20,"kind":"mlp","layer":"linear","outputs":12}'
    assert json.loads(Blueprint.parse("conv:8").spec("a", CONV))["stride"] == [2, 2]


def body_of(name: str, layer: Layer) -> nn.Sequential:
    features, last = build(Blueprint.parse(name).spec("site", layer))
    body = nn.Sequential(features, last).to_empty(device="cpu")
    initialise(features, last, 3)
    return body


@pytest.mark.parametrize("name", ["mlp:7", "lowrank:7", "signal:7", "mlp:7:dropout=0.5"])
@pytest.mark.parametrize("inputs", [10, 17, 64])
def test_a_body_beside_a_linear_has_its_shape_and_no_effect_at_birth(name: str, inputs: int) -> None:
    body = body_of(name, nn.Linear(inputs, 5, device="meta"))
    assert torch.equal(body(torch.randn(3, inputs)), torch.zeros(3, 5))


CONVOLUTIONS = {
    "stride": nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "same": nn.Conv2d(3, 4, 5, padding="same"),
    "valid": nn.Conv2d(3, 4, 3, padding="valid"),
    "dilated": nn.Conv2d(3, 4, 3, dilation=3, padding=2),
    "oblong": nn.Conv2d(3, 4, (1, 5), stride=(2, 1), padding=(0, 2)),
    "reflected": nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "grouped": nn.Conv2d(3, 6, 3, groups=3),
    "pixel": nn.Conv2d(3, 4, 1),
}


@pytest.mark.parametrize("name", ["conv:7", "lowrank:7", "conv:7:dropout=0.5"])
@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_a_body_beside_a_conv2d_has_its_shape_and_no_effect_at_birth(name: str, layer: nn.Conv2d) -> None:
    x = torch.randn(2, 3, 11, 14)
    assert torch.equal(body_of(name, layer)(x), torch.zeros_like(layer(x)))


def test_initial_weights_come_from_their_own_generator_and_are_torchs_default() -> None:
    before = torch.get_rng_state()
    one, other = body_of("mlp:24", LINEAR), body_of("mlp:24", LINEAR)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    weight = one.get_submodule("0.0").weight
    assert isinstance(weight, torch.Tensor)
    bound = 20**-0.5
    assert 0.9 * bound < float(weight.detach().abs().max()) <= bound


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "[]",
        "{}",
        '{"format":1,"hyper":{"width":24},"inputs":20,"kind":"pickle","layer":"linear","outputs":12}',
        '{"format":2,"hyper":{"width":24},"inputs":20,"kind":"mlp","layer":"linear","outputs":12}',
        '{"format":1, "hyper":{"width":24},"inputs":20,"kind":"mlp","layer":"linear","outputs":12}',
        '{"format":1,"hyper":{"width":24},"inputs":20,"kind":"mlp","layer":"linear","outputs":12,"x":1}',
    ],
)
def test_a_spec_that_is_none_is_refused(spec: str) -> None:
    with pytest.raises(DataError, match="expected"):
        build(spec)
