"""A grown host as plain modules: nothing of Esper is left in it, so it can be pickled, copied, compiled and loaded where Esper is not.

A site without seeds is the layer that it was. One with seeds becomes a torch.fx GraphModule: `layer`, then `seeds.<n>.features`, `.last`
and `.alpha`, and a forward that adds them up in the same order, so that the output is the host's, bit for bit.
"""

from copy import deepcopy

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from esper.kasmina import sites
from esper.kasmina.branch import Branch


def export_plain(model: nn.Module) -> nn.Module:
    """An independent plain copy of `model` that computes what it computes now, seeds that act included; others are left out."""
    copy = deepcopy(model)
    if isinstance(copy, sites.Site):
        return _plain(copy)
    plain = {id(module): _plain(module) for module in list(copy.modules()) if isinstance(module, sites.Site)}
    for parent in list(copy.modules()):
        for name, child in parent._modules.items():
            parent._modules[name] = plain.get(id(child), child)
    return copy


def _plain(site: nn.Module) -> nn.Module:
    growth = sites.growth_of(site)
    acting = [(slot, branch) for slot, branch in sorted(growth.branches.items()) if branch in growth.acting]
    sites.release(site)
    return _grown(site, acting) if acting else site


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
