"""A grown host as plain modules: nothing of Esper is left in it, so it can be pickled, copied, compiled and loaded where Esper is not.

A site without seeds is the layer that it was. One with seeds becomes a torch.fx GraphModule: `layer`, then `seeds.<n>.features`, `.last`
and `.alpha`, and a forward that adds them up in the same order, so that the output is the host's, bit for bit.
"""

from copy import deepcopy
from pathlib import Path
from string import Template

import torch
from safetensors.torch import save
from torch import nn
from torch.fx import Graph, GraphModule

from esper.durable import replace_file
from esper.errors import DataError
from esper.kasmina.branch import Branch
from esper.kasmina.calls import unwrapped
from esper.kasmina.site_layer import HostSite, SiteLayer

_TENSORS = "model.safetensors"
_WRITTEN = (nn.Linear, nn.GELU, nn.GroupNorm, nn.Dropout, nn.Unflatten, nn.Flatten, nn.AdaptiveAvgPool1d)


def export_plain(model: nn.Module) -> nn.Module:
    """An independent plain copy of `model` that computes what it computes now, seeds that act included; others are left out.

    Nothing wraps it or its modules: it is not compiled, and not parallel.
    """
    copy = deepcopy(unwrapped(model))
    plain = {id(module): _plain(module.esper_site) for module in list(copy.modules()) if isinstance(module, SiteLayer)}
    for parent in list(copy.modules()):
        for name, child in parent._modules.items():
            inner = child and unwrapped(child)
            parent._modules[name] = plain.get(id(inner), inner)
    return plain.get(id(copy), copy)


def _plain(site: HostSite) -> nn.Module:
    acting = [(slot.seed, slot.branch) for slot in site.slots if slot.branch is not None and slot.branch in site.acting]
    site.release()
    return _grown(site.layer, acting) if acting else site.layer


def _grown(layer: nn.Module, acting: list[tuple[int, Branch]]) -> GraphModule:
    root, graph, width = nn.Module(), Graph(), layer.in_features if isinstance(layer, nn.Linear) else 0
    root.layer, root.seeds = layer, nn.ModuleDict({str(slot): _parts(branch) for slot, branch in acting})
    x = graph.placeholder("input")
    y = graph.call_module("layer", (x,))
    for slot, branch in acting:
        entry = graph.call_method("reshape", (x, -1, width)) if isinstance(branch.last, nn.Linear) else x
        hidden = graph.call_module(f"seeds.{slot}.features", (entry,))
        delta = graph.call_module(f"seeds.{slot}.last", (hidden,))
        shape = graph.call_function(getattr, (y, "shape"))
        scaled = graph.call_function(torch.mul, (graph.get_attr(f"seeds.{slot}.alpha"), graph.call_method("reshape", (delta, shape))))
        y = graph.call_function(torch.add, (y, scaled))
    graph.output(y)
    grown = GraphModule(root, graph, class_name="Grown")
    grown.train(layer.training)
    return grown


def _parts(branch: Branch) -> nn.Module:
    parts = nn.Module()
    parts.features, parts.last = branch.features, branch.last
    parts.register_buffer("alpha", branch.alpha)
    return parts.requires_grad_()


_SOURCE = Template('''"""What grew in a model: `rebuild(host)` adds it to a fresh host, fills in the trained tensors. Needs only torch."""

import json
from pathlib import Path

import torch
from torch import nn

TENSORS = Path(__file__).with_name("$tensors")

# Site -> slot -> (features, last layer) of the seeds that are part of the host.
SITES = {
$sites}

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "C64": torch.complex64, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}


class Seed(nn.Module):
    """A small module beside a layer; alpha says how much of it is in the output."""

    def __init__(self, features, last):
        super().__init__()
        self.features, self.last = features, last
        self.register_buffer("alpha", torch.zeros(()))


class Grown(nn.Module):
    """A layer and the seeds that grew beside it."""

    def __init__(self, layer, seeds):
        super().__init__()
        self.layer = layer
        self.seeds = nn.ModuleDict({slot: Seed(*parts) for slot, parts in seeds.items()}).to(layer.weight)

    def forward(self, input):
        y = self.layer(input)
        for seed in self.seeds.values():
            x = input.reshape(-1, self.layer.in_features) if isinstance(seed.last, nn.Linear) else input
            y = torch.add(y, torch.mul(seed.alpha, seed.last(seed.features(x)).reshape(y.shape)))
        return y


def rebuild(host):
    """The trained, grown model, from a fresh `host` of the architecture that was trained. Changes `host`, and returns it."""
    for site, seeds in SITES.items():
        if not site:
            host = Grown(host, seeds)
            continue
        parent, _, name = site.rpartition(".")
        owner = host.get_submodule(parent)
        setattr(owner, name, Grown(getattr(owner, name), seeds))
    host.load_state_dict(tensors())
    return host.eval()


def tensors(path=TENSORS):
    """The tensors of a safetensors file: eight bytes of length, a JSON header, then the data."""
    data = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        flat = torch.frombuffer(data, dtype=torch.uint8, count=last - first, offset=start + first) if last > first else torch.empty(0)
        found[name] = flat.clone().view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return found
''')


def save_grown(plain: nn.Module, folder: Path) -> Path:
    """Write the result of `export_plain` into `folder`, made if missing, and return it. Raises DataError for a body without source form.

    Whoever may read its files is decided by the umask, as of any file.
    """
    tensors = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in plain.state_dict().items()})
    source = _SOURCE.substitute(tensors=_TENSORS, sites=_sites(plain)).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {_TENSORS: tensors, "grown.py": source}.items():
        replace_file(folder / name, content)
    return folder


def _sites(plain: nn.Module) -> str:
    written = ""
    for name, site in plain.named_modules():
        if isinstance(site, GraphModule) and (seeds := site._modules.get("seeds")) is not None:
            rows = (
                f"        {slot!r}: (\n            {_source(parts.features)},\n            {_source(parts.last)},\n        ),\n"
                for slot, parts in seeds.named_children()
            )
            written += f"    {name!r}: {{\n{''.join(rows)}    }},\n"
    return written


def _source(module: object) -> str:
    if isinstance(module, nn.Sequential):
        return f"nn.Sequential({', '.join(_source(child) for child in module)})"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        options = {name: getattr(module, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
        written = ", ".join(f"{name}={value!r}" for name, value in options.items())
        kind = type(module).__name__
        return f"nn.{kind}({module.in_channels}, {module.out_channels}, {written}, bias={module.bias is not None})"
    if isinstance(module, _WRITTEN):
        return f"nn.{module!r}"
    raise DataError(f"expected a body of torch layers that can be written as source, got a {type(module).__name__}")
