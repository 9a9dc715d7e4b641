"""A training described: model, optimizer, scheduler, loss, loaders, number formats. Values alone, no address in memory.

An object is described by the name of its class and its public attributes. No code of the user's runs for it: neither `repr` nor a property.
The same objects give the same description in every process.
"""

import functools
import hashlib
import inspect
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.data import BatchSampler, DataLoader

from esper.errors import DataError
from esper.events.digests import digest_of
from esper.events.kinds.training_description import Component, Loader, Model, ModuleRow, ParameterGroup, Precision, TrainingDescribed
from esper.kasmina.calls import unwrapped
from esper.masking import mask_values
from esper.tolaria import source_code
from esper.tolaria.objective import Batches, Objective, Supervised, size_of
from esper.tolaria.training import Policy, Scheduler

_DEPTH, _ITEMS, _CHARACTERS = 2, 64, 500
_MOST_OPTIONS_BYTES, _LARGE_BYTES = 4096, 256
_MOST_MODULES = 5000
_SHOWN_ELEMENTS, _DIGESTED_ELEMENTS = 64, 1 << 20
# What a scheduler counts while it runs, and what it was given and is described beside it.
_OF_SCHEDULERS = ("optimizer", "step_count", "last_lr", "get_lr_called_within_step", "is_initial")
_OF_LOADERS = ("dataset", "sampler", "batch_sampler", "batch_size", "drop_last", "num_workers", "generator")


def describe(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    scheduler: Scheduler | None,
    objective: Objective,
    loaders: Mapping[str, Batches],
    policy: Policy | None,
    device: torch.device,
    source: bool,
) -> TrainingDescribed:
    """The training of these, described. `model` has no sites yet; `source`: the source is described too."""
    loss, metrics = (objective.loss, objective.metrics) if isinstance(objective, Supervised) else (None, {})
    return TrainingDescribed(
        model=_model(unwrapped(model)),
        optimizer=_component(optimizer, getattr(optimizer, "defaults", {})),
        groups=_groups(optimizer, unwrapped(model)),
        scheduler=None if scheduler is None else _component(scheduler, _of_scheduler(scheduler)),
        loss=None if loss is None else _component(loss),
        objective=_component(getattr(objective, "loss", objective)) if loss is None else None,
        metrics={name: _component(metric) for name, metric in metrics.items()},
        loaders=tuple(_loader(name, batches) for name, batches in loaders.items()),
        precision=_precision(model, device),
        policy=None if policy is None else _component(policy),
        sources=source_code.sources() if source else None,
    )


def _component(given: object, options: Mapping[str, object] | None = None) -> Component:
    """`given` with `options`, or with its own."""
    found = _attributes(given) if options is None else options
    return Component(kind=_kind(given), options=_options(found), digest=_source_digest(given))


def _kind(given: object) -> str:
    """The whole name of a class, function or module, else of the object's class."""
    if isinstance(given, ModuleType):
        return given.__name__
    named = _named(given)
    module, name = getattr(named, "__module__", None), str(getattr(named, "__qualname__", type(given).__qualname__))
    return f"{module}.{name}" if isinstance(module, str) else name


def _named(given: object) -> Any:  # Any: a class, a function or what wraps one.
    """The bearer of the name of `given`: not asked of an object of the user's, which may answer for every name."""
    if isinstance(given, functools.partial):
        return _named(given.func)
    bears = isinstance(given, type) or inspect.isroutine(given) or "__qualname__" in _dict(given)
    return given if bears else type(given)


def _dict(given: object) -> dict[Any, object]:  # Any: a class may put what it likes there.
    """The `__dict__` of `given` without its `__getattr__`."""
    try:
        found = object.__getattribute__(given, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}


def _source_digest(given: object) -> str | None:
    """sha256 over the source of the user's own class or function."""
    named = _named(given)
    try:
        file = inspect.getsourcefile(named)
        if file is None or (os.path.isfile(file) and not source_code.is_own(file)):  # noqa: PTH113 - a cell of a notebook has no file.
            return None
        return hashlib.sha256(inspect.getsource(named).encode(errors="replace")).hexdigest()
    except (OSError, TypeError, SyntaxError):
        return None


def _attributes(given: object) -> Mapping[str, object]:
    """The public attributes of an object; the values that a function was bound to."""
    if isinstance(given, functools.partial):
        return {**({"arguments": given.args} if given.args else {}), **given.keywords}
    if inspect.isfunction(given):
        cells = zip(given.__code__.co_freevars, given.__closure__ or (), strict=False)
        return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    if isinstance(given, type | ModuleType) or inspect.isroutine(given):
        return {}
    found = _dict(given).items()
    state = {"training"} if isinstance(given, nn.Module) else set()
    return {name: value for name, value in found if isinstance(name, str) and not name.startswith("_") and name not in state}


def _is_filled(cell: object) -> bool:
    try:
        cell.cell_contents  # type: ignore[attr-defined] # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True


def _options(found: Mapping[str, object], without: Collection[str] = (), depth: int = _DEPTH) -> dict[str, JsonValue]:
    """`found` as JSON with secrets masked; of values that take much room where all of them do, the kind."""
    made = {str(name): _plain(value, depth) for name, value in found.items() if name not in without}
    if len(json.dumps(made)) > _MOST_OPTIONS_BYTES:
        made = {name: {"kind": _kind(found[name])} if len(json.dumps(value)) > _LARGE_BYTES else value for name, value in made.items()}
    masked = mask_values(made)
    assert isinstance(masked, dict)
    return masked


def _plain(value: object, depth: int) -> JsonValue:
    """`value` as JSON. A number that is not finite is one of the log's words; what is long or deep is its kind and length."""
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, bool | int | float | str):
        return _scalar(value)
    if isinstance(value, torch.dtype | torch.device | os.PathLike):
        return str(value)
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, list | tuple | dict | set | frozenset):
        return _collection(value, depth)
    return _object(value, depth)


def _scalar(value: Any) -> JsonValue:  # Any: a bool, int, float, text or None; mypy takes every int for a float.
    if isinstance(value, str):
        return value.encode(errors="replace").decode()[:_CHARACTERS]
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return str(value) if isinstance(value, int) and abs(value) >= 2**63 else value


_Collection = list[object] | tuple[object, ...] | dict[object, object] | set[object] | frozenset[object]


def _collection(value: _Collection, depth: int) -> JsonValue:
    if len(value) > _ITEMS or depth <= 0 or isinstance(value, set | frozenset):
        return {"kind": _kind(value), "length": len(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item, depth - 1) for key, item in value.items() if isinstance(key, str | int)}
    return [_plain(item, depth - 1) for item in value]


def _object(value: object, depth: int) -> JsonValue:
    kind = _kind(value)
    if isinstance(value, nn.Module | Optimizer):  # Described in its own place.
        return {"kind": kind}
    options = _options(_attributes(value), _OF_SCHEDULERS, depth - 1) if depth > 0 else {}
    return {"kind": kind, "options": options} if options else kind if callable(value) or isinstance(value, ModuleType) else {"kind": kind}


def _tensor(value: Tensor) -> JsonValue:
    """A small tensor as its numbers; of a larger one type and shape, and a digest unless it is very large. Waits for the device."""
    if value.numel() <= _SHOWN_ELEMENTS and not value.is_complex() and value.device.type != "meta":
        return _plain(value.detach().tolist(), _DEPTH + value.dim())
    described: dict[str, JsonValue] = {"kind": "torch.Tensor", "dtype": str(value.dtype), "shape": list(value.shape)}
    if value.numel() <= _DIGESTED_ELEMENTS and value.layout is torch.strided and value.device.type != "meta":
        flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        described["digest"] = hashlib.sha256(flat.numpy().data).hexdigest()
    return described


def _model(model: nn.Module) -> Model:
    rows = tuple(_rows(model, "", {}, set()))
    return Model(
        kind=_kind(model),
        digest=digest_of([row.model_dump(mode="json") for row in rows]),
        parameters=sum(row.parameters for row in rows),
        trainable=sum(row.trainable for row in rows),
        modules=rows[:_MOST_MODULES],
        left_out=max(0, len(rows) - _MOST_MODULES),
    )


def _rows(module: nn.Module, name: str, modules: dict[int, str], counted: set[int]) -> Iterator[ModuleRow]:
    """The row of `module`, then those of its children. `modules` have the names, `counted` the parameters of the rows before."""
    first = modules.setdefault(id(module), name)
    own = {} if first != name else dict(module.named_parameters(recurse=False, remove_duplicate=False))
    fresh = {id(one): one for one in own.values() if id(one) not in counted and not _is_lazy(one)}
    counted.update(fresh)
    yield ModuleRow(
        name=name,
        kind=_kind(module),
        shapes={key: () if _is_lazy(parameter) else tuple(parameter.shape) for key, parameter in own.items()},
        parameters=sum(parameter.numel() for parameter in fresh.values()),
        trainable=sum(parameter.numel() for parameter in fresh.values() if parameter.requires_grad),
        options=_options(_attributes(module)),
        same_as=None if first == name else first,
    )
    if first == name:
        children: dict[str, nn.Module | None] = module._modules  # named_children leaves out what is shared.
        for key, child in children.items():
            if child is not None:
                yield from _rows(child, f"{name}.{key}" if name else key, modules, counted)


def _is_lazy(parameter: Tensor) -> bool:
    return bool(is_lazy(parameter))  # Not the guard that torch has: everything else would be no parameter.


def _groups(optimizer: Optimizer, model: nn.Module) -> tuple[ParameterGroup, ...]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    whole = list(names) == [id(parameter) for parameter in optimizer.param_groups[0]["params"]]
    return tuple(
        ParameterGroup(
            parameters=None if whole else tuple(names.get(id(parameter), "(not in the model)") for parameter in group["params"]),
            options=_options(group, ("params", "param_names")),
        )
        for group in optimizer.param_groups
    )


def _of_scheduler(scheduler: Scheduler) -> Mapping[str, object]:
    """Parts of a scheduler; torch keeps a part of it, such as the schedulers of a sequence, in private attributes."""
    found = {name.lstrip("_"): value for name, value in vars(scheduler).items()}
    return {name: value for name, value in found.items() if name not in _OF_SCHEDULERS}


def _loader(name: str, batches: Batches) -> Loader:
    loader = batches if isinstance(batches, DataLoader) else None
    found = dict(_attributes(batches))
    drop_last, workers = found.get("drop_last"), found.get("num_workers")
    dataset = found.get("dataset")
    return Loader(
        name=name,
        kind=_kind(batches),
        batch_size=_batch_size(batches),
        batches=_length(batches),
        sampler=None if loader is None else _sampler(loader),
        drop_last=drop_last if isinstance(drop_last, bool) else None,
        workers=workers if isinstance(workers, int) else None,
        options=_options(found, _OF_LOADERS),
        dataset=None if dataset is None else _component(dataset),
    )


def _batch_size(batches: Batches) -> int | None:
    size = _dict(batches).get("batch_size")
    if isinstance(size, int):
        return size
    # Of any other class, asking for a batch is a call of the user's own code.
    if isinstance(batches, list | tuple) and type(batches) in (list, tuple) and batches:
        with suppress(DataError):
            return size_of(batches[0])
    return None


def _length(batches: Batches) -> int | None:
    with suppress(TypeError, NotImplementedError):  # A DataLoader over a stream has __len__, and raises.
        return len(batches)  # type: ignore[arg-type]
    return None


def _sampler(loader: "DataLoader[object]") -> Component | None:
    """The sampler of samples, or that of batches where it is one of the user's own."""
    own = loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler
    sampler: object = loader.batch_sampler if own else loader.sampler
    found = {name.lstrip("_"): value for name, value in _dict(sampler).items()}
    return _component(sampler, {name: value for name, value in found.items() if name not in ("data_source", "dataset", "generator")})


def _precision(model: nn.Module, device: torch.device) -> Precision:
    matmul = "unknown"
    with suppress(RuntimeError):  # It was set by torch's other interface, whose values this one refuses to name.
        matmul = torch.get_float32_matmul_precision()
    autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    return Precision(
        parameters=tuple(sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()})),
        default=str(torch.get_default_dtype()).removeprefix("torch."),
        autocast=None if autocast is None else str(autocast).removeprefix("torch."),
        float32_matmul=matmul,
        cudnn_tf32=torch.backends.cudnn.allow_tf32,
    )
