"""Blueprints of seeds, the shapes of the layers that they fit, and the bodies built from them.

A blueprint with a shape is a *spec*: canonical JSON, the only thing that a body is ever built from. A body is `features`, then `last`, an
affine layer that starts at zero, so that a seed is born without any effect (Net2Net, Chen et al. 2016; GradMax, Evci et al. 2022; ReZero,
Bachlechner et al. 2021). Bodies are plain torch layers. GroupNorm and LayerNorm only: BatchNorm would carry state from batch to batch.

    mlp:24      Linear(in, 24), GELU, Linear(24, out)                                             for a Linear
    lowrank:8   Linear(in, 8, no bias), Linear(8, out); beside a Conv2d the same in convolutions
    signal:12   Conv1d(1, 12, 5), GELU, Conv1d(12, 12, 5, stride 2), GELU, mean to 5, Linear(60, out): a vector as a signal   for a Linear
    conv:8      Conv2d(in, 8, as the site's), GroupNorm(1), GELU, Conv2d(8, out, 1)               for a Conv2d

`mlp:24:dropout=0.1` puts Dropout before the last layer (mlp, conv and signal).
"""

import json
import math
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import JsonValue
from torch import nn

from esper.errors import DataError
from esper.events.digests import canonical

FORMAT = 1
_MINIMUM_SIGNAL = 10
_POOLED = 5
_Kind = Literal["mlp", "lowrank", "conv", "signal"]
_PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
KINDS: dict[str, _Kind] = {"mlp": "mlp", "lowrank": "lowrank", "conv": "conv", "signal": "signal"}
_DROPPING = frozenset({"mlp", "conv", "signal"})


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A Linear's shape."""

    inputs: int
    outputs: int

    @property
    def text(self) -> str:
        """The layer as people read it."""
        return f"Linear {self.inputs}→{self.outputs}"

    def fields(self) -> dict[str, JsonValue]:
        """The shape as it stands in a spec."""
        return {"layer": "linear", "inputs": self.inputs, "outputs": self.outputs}


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A Conv2d's shape and geometry; `padding` is the layer's own: a pair, or "same" or "valid"."""

    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: str | tuple[int, int]
    dilation: tuple[int, int]
    padding_mode: _PaddingMode

    @property
    def text(self) -> str:
        """The layer as people read it."""
        return f"Conv2d {self.inputs}→{self.outputs} {self.kernel[0]}x{self.kernel[1]}"

    def fields(self) -> dict[str, JsonValue]:
        """The shape as it stands in a spec."""
        padding: JsonValue = self.padding if isinstance(self.padding, str) else list(self.padding)
        geometry: dict[str, JsonValue] = {"kernel": list(self.kernel), "stride": list(self.stride), "dilation": list(self.dilation)}
        shape: dict[str, JsonValue] = {"layer": "conv2d", "inputs": self.inputs, "outputs": self.outputs}
        return shape | geometry | {"padding": padding, "padding_mode": self.padding_mode}


Shape = LinearShape | ConvShape


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Kind and hyper-parameters of a seed, without a shape."""

    kind: _Kind
    width: int
    dropout: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Blueprint":
        """The blueprint that `text` names, such as "mlp:24". Raises DataError."""
        kind, _, rest = text.partition(":")
        width, _, option = rest.partition(":")
        if kind not in KINDS or not width.isascii() or not width.isdigit() or int(width) < 1:
            raise DataError(f"expected a blueprint such as mlp:24 (kinds: {', '.join(KINDS)}), got {text!r}")
        return cls(KINDS[kind], int(width), _dropout(text, kind, option) if option else 0.0)

    @property
    def name(self) -> str:
        """The text that `parse` takes."""
        return f"{self.kind}:{self.width}" + (f":dropout={self.dropout!r}" if self.dropout else "")

    def misfit(self, shape: Shape) -> str | None:
        """Reason why this blueprint does not fit a layer of `shape`; None where it fits."""
        if self.kind == "conv" and isinstance(shape, LinearShape):
            return "conv needs an image-shaped input, a Conv2d"
        if self.kind in ("mlp", "signal") and isinstance(shape, ConvShape):
            return f"{self.kind} needs a vector, a Linear"
        if self.kind == "signal" and shape.inputs < _MINIMUM_SIGNAL:
            return f"signal needs at least {_MINIMUM_SIGNAL} inputs"
        return None

    def spec(self, site: str, shape: Shape) -> str:
        """The canonical JSON from which a body beside `site` is built. Raises DataError where the blueprint does not fit."""
        misfit = self.misfit(shape)
        if misfit is not None:
            raise DataError(f"expected a blueprint that fits site {site!r} ({shape.text}), got {self.name}: {misfit}")
        hyper: dict[str, JsonValue] = {"width": self.width} | ({"dropout": self.dropout} if self.dropout else {})
        fields: dict[str, JsonValue] = {"format": FORMAT, "kind": self.kind, "hyper": hyper}
        return canonical(fields | shape.fields()).decode()


def _dropout(text: str, kind: str, option: str) -> float:
    name, _, value = option.partition("=")
    try:
        share = float(value)
    except ValueError as error:
        raise DataError(f"expected dropout=SHARE in blueprint {text!r}, got {option!r}") from error
    if name != "dropout" or kind not in _DROPPING or not 0.0 < share < 1.0:
        raise DataError(f"expected dropout=SHARE with 0 < SHARE < 1 (for {', '.join(sorted(_DROPPING))}) in blueprint {text!r}")
    return share


def shape_of(layer: nn.Module) -> Shape | None:
    """The shape of a layer that can be a site; None for any other module."""
    if isinstance(layer, nn.Linear):
        return LinearShape(layer.in_features, layer.out_features)
    if isinstance(layer, nn.Conv2d):
        padding = layer.padding if isinstance(layer.padding, str) else _pair(layer.padding)
        geometry = (_pair(layer.kernel_size), _pair(layer.stride), padding, _pair(layer.dilation))
        return ConvShape(layer.in_channels, layer.out_channels, *geometry, layer.padding_mode)
    return None


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second


@dataclass(frozen=True, slots=True)
class Built:
    """An unfilled body: its two parts on the meta device."""

    features: nn.Sequential
    last: nn.Linear | nn.Conv2d


def build(spec: str) -> Built:
    """The body that `spec` describes, on the meta device: no memory, and no random number is drawn (a plain layer draws its weights)."""
    blueprint, shape = _read(spec)
    drop = (nn.Dropout(blueprint.dropout),) if blueprint.dropout else ()
    with torch.device("meta"):
        if isinstance(shape, ConvShape):
            return _beside_conv(blueprint, shape, drop)
        return _beside_linear(blueprint, shape, drop)


def _beside_linear(blueprint: Blueprint, shape: LinearShape, drop: tuple[nn.Module, ...]) -> Built:
    width = blueprint.width
    if blueprint.kind == "mlp":
        return Built(nn.Sequential(nn.Linear(shape.inputs, width), nn.GELU(), *drop), nn.Linear(width, shape.outputs))
    if blueprint.kind == "lowrank":
        return Built(nn.Sequential(nn.Linear(shape.inputs, width, bias=False)), nn.Linear(width, shape.outputs))
    convolutions = (nn.Conv1d(1, width, 5, 1, 2), nn.GELU(), nn.Conv1d(width, width, 5, 2, 2), nn.GELU())
    features = nn.Sequential(nn.Unflatten(-1, (1, shape.inputs)), *convolutions, nn.AdaptiveAvgPool1d(_POOLED), nn.Flatten(-2), *drop)
    return Built(features, nn.Linear(_POOLED * width, shape.outputs))


def _beside_conv(blueprint: Blueprint, shape: ConvShape, drop: tuple[nn.Module, ...]) -> Built:
    lowrank = blueprint.kind == "lowrank"
    first = nn.Conv2d(
        shape.inputs,
        blueprint.width,
        shape.kernel,
        shape.stride,
        shape.padding,
        shape.dilation,
        padding_mode=shape.padding_mode,
        bias=not lowrank,
    )
    inner = () if lowrank else (nn.GroupNorm(1, blueprint.width), nn.GELU(), *drop)
    return Built(nn.Sequential(first, *inner), nn.Conv2d(blueprint.width, shape.outputs, 1))


def initialise(features: nn.Sequential, last: nn.Linear | nn.Conv2d, rng_seed: int) -> None:
    """Fills a body in place from a generator of its own: torch's default for the layer, norms at identity, the last layer at zero.

    Kaiming uniform with a = sqrt(5), biases uniform within 1 / sqrt(fan in), as `Linear.reset_parameters` and `_ConvNd` do.
    """
    generator = torch.Generator().manual_seed(rng_seed)
    for layer in features:
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.GroupNorm):
            layer.reset_parameters()
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)


def _read(spec: str) -> tuple[Blueprint, Shape]:
    """Blueprint and shape of a spec. Raises DataError: specs come from files and logs as well."""
    try:
        raw = json.loads(spec)
        blueprint = Blueprint(KINDS[raw["kind"]], raw["hyper"]["width"], raw["hyper"].get("dropout", 0.0))
        shape: Shape
        if raw["layer"] == "conv2d":
            padding = raw["padding"] if isinstance(raw["padding"], str) else _pair(tuple(raw["padding"]))
            geometry = (_pair(tuple(raw["kernel"])), _pair(tuple(raw["stride"])), padding, _pair(tuple(raw["dilation"])))
            shape = ConvShape(raw["inputs"], raw["outputs"], *geometry, raw["padding_mode"])
        else:
            shape = LinearShape(raw["inputs"], raw["outputs"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"expected the spec of a blueprint, got {spec!r}: {error!r}") from error
    if raw["format"] != FORMAT or blueprint.spec("-", shape) != spec:
        raise DataError(f"expected a spec of format {FORMAT} in its canonical form, got {spec!r}")
    return blueprint, shape


def probe(spec: str, batch: int, rng_seed: int, dtype: torch.dtype) -> torch.Tensor:
    """An input of `batch` samples that the layer of `spec` would take, drawn from a generator of its own."""
    _, shape = _read(spec)
    size = (shape.inputs,) if isinstance(shape, LinearShape) else (shape.inputs, *_field_of_view(shape))
    generator = torch.Generator().manual_seed(rng_seed)
    return torch.randn(batch, *size, generator=generator, device="cpu", dtype=torch.float32).to(dtype)


def outputs_of(spec: str) -> int:
    """Number of features (or channels) in the output of a body of `spec`."""
    return _read(spec)[1].outputs


def _field_of_view(shape: ConvShape) -> tuple[int, int]:
    height, width = (max(8, dilation * (kernel - 1) + 1) for dilation, kernel in zip(shape.dilation, shape.kernel, strict=True))
    return height, width
