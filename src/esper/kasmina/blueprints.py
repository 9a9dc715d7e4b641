"""Blueprints of seeds, and the bodies built from them beside a Linear, a Conv1d or a Conv2d.

A blueprint for a layer is a *spec*: canonical JSON, the only thing that a body is ever built from. A body is `features`, then `last`, an
affine layer that starts at zero, so that a seed is born without any effect (Net2Net, Chen et al. 2016; GradMax, Evci et al. 2022; ReZero,
Bachlechner et al. 2021). Bodies are plain torch layers. GroupNorm and LayerNorm only: BatchNorm would carry state from batch to batch.

    mlp:24      Linear(in, 24), GELU, Linear(24, out)                                             for a Linear
    lowrank:8   Linear(in, 8, no bias), Linear(8, out); beside a convolution the same in convolutions
    signal:12   Conv1d(1, 12, 5), GELU, Conv1d(12, 12, 5, stride 2), GELU, mean to 5, Linear(60, out): a vector as a signal   for a Linear
    conv:8      Conv2d(in, 8, as the site's), GroupNorm(1), GELU, Conv2d(8, out, 1)               for a Conv2d; of Conv1d for a Conv1d

`mlp:24:dropout=0.1` puts Dropout before the last layer (mlp, conv and signal).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import JsonValue
from torch import nn

from esper.errors import DataError
from esper.events.digests import canonical

Convolution = nn.Conv1d | nn.Conv2d
Layer = nn.Linear | Convolution
"""A layer that can be a site, and the last layer of a body."""

_CONVOLUTIONS: dict[str, type[Convolution]] = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d}
"""By their name in a spec."""

SPEC_FORMAT = 1
_MINIMUM_SIGNAL = 10
_POOLED = 5
_KINDS = ("mlp", "lowrank", "conv", "signal")
_DROPPING = ("conv", "mlp", "signal")


@dataclass(frozen=True, slots=True)
class Blueprint:
    """Kind and hyper-parameters of a seed, without a shape."""

    kind: str
    width: int
    dropout: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Blueprint":
        """The blueprint that `text` names, such as "mlp:24". Raises DataError."""
        kind, _, rest = text.partition(":")
        width, _, option = rest.partition(":")
        if kind not in _KINDS or not width.isascii() or not width.isdigit() or int(width) < 1:
            raise DataError(f"expected a blueprint such as mlp:24 (kinds: {', '.join(_KINDS)}), got {text!r}")
        return cls(kind, int(width), _dropout(text, kind, option) if option else 0.0)

    @property
    def name(self) -> str:
        """The text that `parse` takes."""
        return f"{self.kind}:{self.width}" + (f":dropout={self.dropout!r}" if self.dropout else "")

    def misfit(self, layer: Layer) -> str | None:
        """Reason why this blueprint does not fit beside `layer`; None where it fits."""
        if self.kind == "conv" and isinstance(layer, nn.Linear):
            return "conv needs the input of a convolution, a Conv1d or Conv2d"
        if self.kind in ("mlp", "signal") and isinstance(layer, Convolution):
            return f"{self.kind} needs a vector, a Linear"
        if self.kind == "signal" and features_of(layer)[0] < _MINIMUM_SIGNAL:
            return f"signal needs at least {_MINIMUM_SIGNAL} inputs"
        return None

    def spec(self, site: str, layer: Layer) -> str:
        """The canonical JSON from which a body beside `layer` of `site` is built. Raises DataError where the blueprint does not fit."""
        if (misfit := self.misfit(layer)) is not None:
            raise DataError(f"expected a blueprint that fits site {site!r} ({layer_text(layer)}), got {self.name}: {misfit}")
        inputs, outputs = features_of(layer)
        hyper: dict[str, JsonValue] = {"width": self.width} | ({"dropout": self.dropout} if self.dropout else {})
        fields: dict[str, JsonValue] = {"format": SPEC_FORMAT, "kind": self.kind, "hyper": hyper, "inputs": inputs, "outputs": outputs}
        return canonical(fields | _geometry(layer)).decode()


def _dropout(text: str, kind: str, option: str) -> float:
    name, _, value = option.partition("=")
    try:
        share = float(value)
    except ValueError as error:
        raise DataError(f"expected dropout=SHARE in blueprint {text!r}, got {option!r}") from error
    if name != "dropout" or kind not in _DROPPING or not 0.0 < share < 1.0:
        raise DataError(f"expected dropout=SHARE with 0 < SHARE < 1 (for {', '.join(_DROPPING)}) in blueprint {text!r}")
    return share


def features_of(layer: Layer) -> tuple[int, int]:
    """(inputs, outputs): numbers of features of a Linear, of channels of a convolution."""
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (layer.in_channels, layer.out_channels)


def layer_text(layer: Layer) -> str:
    """The layer as people read it, such as "Linear 64→10"."""
    inputs, outputs = features_of(layer)
    if isinstance(layer, nn.Linear):
        return f"Linear {inputs}→{outputs}"
    return f"Conv{len(layer.kernel_size)}d {inputs}→{outputs} {'x'.join(map(str, layer.kernel_size))}"


def _geometry(layer: Layer) -> dict[str, JsonValue]:
    """The layer's kind and, of a convolution, its geometry, as they stand in a spec."""
    if isinstance(layer, nn.Linear):
        return {"layer": "linear"}
    return {
        "layer": f"conv{len(layer.kernel_size)}d",
        "kernel": list(layer.kernel_size),
        "stride": list(layer.stride),
        "padding": layer.padding if isinstance(layer.padding, str) else list(layer.padding),
        "dilation": list(layer.dilation),
        "padding_mode": layer.padding_mode,
    }


# Any: torch refuses the rest.
def _convolution(inputs: int, outputs: int, geometry: Mapping[str, Any], *, bias: bool = True) -> Convolution:
    kind = _CONVOLUTIONS[geometry["layer"]]
    kernel, stride, dilation = (tuple(geometry[name]) for name in ("kernel", "stride", "dilation"))
    padding = geometry["padding"] if isinstance(geometry["padding"], str) else tuple(geometry["padding"])
    if {len(part) for part in (kernel, stride, dilation, padding) if isinstance(part, tuple)} != {1 if kind is nn.Conv1d else 2}:
        raise ValueError(f"expected a number a dimension, got {dict(geometry)}")
    return kind(inputs, outputs, kernel, stride, padding, dilation, padding_mode=geometry["padding_mode"], bias=bias)


def read_spec(spec: str) -> tuple[Blueprint, Layer]:
    """Blueprint and layer of a spec, the layer on the meta device. Raises DataError: specs are also read from files and logs."""
    try:
        raw = json.loads(spec)
        blueprint = Blueprint.parse(Blueprint(raw["kind"], raw["hyper"]["width"], raw["hyper"].get("dropout", 0.0)).name)
        sizes = (raw["inputs"], raw["outputs"])
        with torch.device("meta"):
            layer: Layer = nn.Linear(*sizes) if raw["layer"] == "linear" else _convolution(*sizes, raw)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(f"expected the spec of a blueprint, got {spec!r}: {error!r}") from error
    if blueprint.spec("-", layer) != spec:
        raise DataError(f"expected a spec of format {SPEC_FORMAT} in its canonical form, got {spec!r}")
    return blueprint, layer


def build(spec: str) -> tuple[nn.Sequential, Layer]:
    """(features, last layer) of `spec` on the meta device: unfilled, without memory or a draw of random numbers."""
    blueprint, layer = read_spec(spec)
    kind, width, (inputs, outputs) = blueprint.kind, blueprint.width, features_of(layer)
    drop = (nn.Dropout(blueprint.dropout),) if blueprint.dropout else ()
    with torch.device("meta"):
        if isinstance(layer, Convolution):
            inner = () if kind == "lowrank" else (nn.GroupNorm(1, width), nn.GELU(), *drop)
            first = _convolution(inputs, width, _geometry(layer), bias=kind != "lowrank")
            return nn.Sequential(first, *inner), type(first)(width, outputs, 1)
        if kind == "mlp":
            return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), *drop), nn.Linear(width, outputs)
        if kind == "lowrank":
            return nn.Sequential(nn.Linear(inputs, width, bias=False)), nn.Linear(width, outputs)
        convolutions = (nn.Conv1d(1, width, 5, 1, 2), nn.GELU(), nn.Conv1d(width, width, 5, 2, 2), nn.GELU())
        features = nn.Sequential(nn.Unflatten(-1, (1, inputs)), *convolutions, nn.AdaptiveAvgPool1d(_POOLED), nn.Flatten(-2), *drop)
        return features, nn.Linear(_POOLED * width, outputs)


def initialise(features: nn.Sequential, last: Layer, rng_seed: int) -> None:
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
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
