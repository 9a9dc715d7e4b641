"""The whole training state as one snapshot, and back: host, seeds, optimizers, scheduler, progress and counters; its digests."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.errors import DataError
from esper.events.digests import canonical
from esper.events.kinds.epoch import StateDigests
from esper.kasmina.calls import unwrapped
from esper.kasmina.host import Host
from esper.tolaria.determinism import digest_of_tensors, random_state_digest
from esper.tolaria.trainer_state import Counters, Rewindable
from esper.tolaria.training import Training


class Snapshot(NamedTuple):
    """A training state: tensors by name, and `body`: all else that numbers depend on."""

    tensors: dict[str, Tensor]
    body: dict[str, Any]  # Any: JSON as `take` made it; a checkpoint's digest checks it.


def take(training: Training) -> Snapshot:
    """The training state as it is now. Tensors are not copied: write it before the next step."""
    _, seeds = training.host.state()
    states, optimizers = _optimizer_states(training)
    scheduler = training.scheduler
    body = {
        "seeds": seeds,
        "optimizers": optimizers,
        "scheduler": None if scheduler is None else _plain_to_json(scheduler.state_dict(), "the scheduler's state"),
        "rewindable": training.progress.model_dump_json(),
        "counters": training.counters.model_dump_json(),
    }
    return Snapshot(_parameters(training.host) | states, body)


def put_back(snapshot: Snapshot, training: Training) -> tuple[Rewindable, Counters]:
    """Restore host, seeds, optimizers and scheduler; returns the progress and counters of the snapshot, which are the caller's to restore.

    Raises ValueError, RuntimeError or KeyError for a host, optimizer or scheduler that it was not taken of.
    """
    training.host.restore(_named("seeds/", snapshot.tensors), snapshot.body["seeds"])
    unwrapped(training.host.model).load_state_dict(_named("model/", snapshot.tensors))
    for place, parameter in _own_parameters(training).items():
        parameter.data.copy_(snapshot.tensors[place])
    for name, optimizer in _optimizers(training):
        _restore_optimizer(name, optimizer, snapshot.tensors, snapshot.body["optimizers"][name])
    state, scheduler = _plain_from_json(snapshot.body["scheduler"]), training.scheduler
    if isinstance(state, dict) and scheduler is not None:
        scheduler.load_state_dict(state)
    elif state is not None or scheduler is not None:
        wanted, found = ("a", "none") if scheduler is None else ("no", "one")
        raise ValueError(f"expected {wanted} learning rate scheduler, as when it was saved; got {found}")
    return Rewindable.model_validate_json(snapshot.body["rewindable"]), Counters.model_validate_json(snapshot.body["counters"])


def model_digest(training: Training) -> str:
    """sha256 of the tensors of host and seeds. Waits for the device."""
    return digest_of_tensors(_parameters(training.host))


def fingerprint(parameters: Iterable[Tensor]) -> str:
    """Digest of the sum and the norm of each trainable parameter, in float64: another one where one changed. Waits for the device."""
    plain = (one.detach() for one in parameters if one.requires_grad)
    real = [torch.view_as_real(one) if one.is_complex() else one for one in plain]
    sums = [torch.stack((one.sum(dtype=torch.float64), torch.linalg.vector_norm(one, dtype=torch.float64))) for one in real]
    return digest_of_tensors({str(place): pair for place, pair in enumerate(sums)})


def state_digests(training: Training) -> StateDigests:
    """The digests of an epoch's end that `TrainerSettings.digest` asks for. Waits for the device."""
    wanted = training.settings.digest
    optimizer = random = None
    if wanted == "full":
        states, plain = _optimizer_states(training)
        optimizer, random = digest_of_tensors(states, canonical(plain)), random_state_digest(training.device)
    return StateDigests(parameters=None if wanted == "off" else model_digest(training), optimizer=optimizer, random=random)


def _parameters(host: Host) -> dict[str, Tensor]:
    """The tensors of model and seeds, buffers included."""
    tensors: dict[str, Tensor] = {}
    for name, value in unwrapped(host.model).state_dict().items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise DataError(f"a checkpoint holds the model's tensors; its state {name!r} is a {kind}: make it a buffer")
        tensors[f"model/{name}"] = value
    return tensors | {f"seeds/{name}": tensor for name, tensor in host.state()[0].items()}


def _optimizers(training: Training) -> list[tuple[str, Optimizer]]:
    return [("host", training.optimizer), *training.host.optimizers().items()]


def _optimizer_states(training: Training) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """The tensors of all optimizers, parameters that are theirs alone included, and the rest of their state by name."""
    tensors: dict[str, Tensor] = {name: parameter.detach() for name, parameter in _own_parameters(training).items()}
    plain: dict[str, JsonValue] = {}
    for name, optimizer in _optimizers(training):
        flat, plain[name] = _flatten_optimizer(name, optimizer)
        tensors |= flat
    return tensors, plain


def _own_parameters(training: Training) -> dict[str, nn.Parameter]:
    """Parameters that the host's optimizer trains beside the model, such as the learned weight of a loss, by place in a snapshot."""
    of_model = {id(parameter) for parameter in training.host.model.parameters()}
    parameters = [parameter for group in training.optimizer.param_groups for parameter in group["params"]]
    return {f"optimizer/host/own/{index}": one for index, one in enumerate(parameters) if id(one) not in of_model}


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _flatten_optimizer(name: str, optimizer: Optimizer) -> tuple[dict[str, Tensor], JsonValue]:
    """An optimizer's state as tensors, named `optimizer/<name>/<parameter>/<key>`, and JSON for the rest.

    Raises DataError naming what cannot be written as either.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[int, dict[str, object]] = {}
    held: dict[int, list[str]] = {}
    for index, entries in state["state"].items():
        held[index] = [key for key, value in entries.items() if isinstance(value, Tensor)]
        tensors |= {_place(name, index, key): entries[key] for key in held[index]}
        plain[index] = {key: value for key, value in entries.items() if key not in held[index]}
    rest = {"class": type(optimizer).__qualname__, "groups": state["param_groups"], "plain": plain, "tensors": held}
    return tensors, _plain_to_json(rest, f"the state of optimizer {name}")


def _restore_optimizer(name: str, optimizer: Optimizer, tensors: Mapping[str, Tensor], saved: JsonValue) -> None:
    """Restore the state that `_flatten_optimizer` took. Raises ValueError for another class, KeyError for a missing tensor."""
    rest = _plain_from_json(saved)
    assert isinstance(rest, dict)
    if rest["class"] != type(optimizer).__qualname__:
        raise ValueError(f"expected optimizer {name} of class {rest['class']}, got {type(optimizer).__qualname__}")
    # Tensors are looked up one by one: a prefix would take those of the seed `host/0` for the host's.
    state = {
        index: {**rest["plain"][index], **{key: tensors[_place(name, index, key)].clone() for key in keys}}
        for index, keys in rest["tensors"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": rest["groups"]})


def _place(name: str, index: int, key: str) -> str:
    return f"optimizer/{name}/{index}/{key}"


def _plain_to_json(value: object, what: str) -> JsonValue:
    """`value` as JSON that `_plain_from_json` restores exactly: tuples, maps with keys that are not text, and numbers that are not finite.

    A list and a plain value stand as they are; anything else is an object with one key that names its type. Raises DataError
    naming `what` where it holds anything but plain values (a function, a tensor)."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"number": str(float(value))}
    if isinstance(value, list):
        return [_plain_to_json(part, what) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain_to_json(part, what) for part in value]}
    if isinstance(value, Mapping):
        pairs: list[JsonValue] = [[_plain_to_json(key, what), _plain_to_json(part, what)] for key, part in value.items()]
        return {"counter" if isinstance(value, Counter) else "map": pairs}
    raise DataError(f"a checkpoint holds tensors and plain values only; {what} holds a {type(value).__name__}: {value!r:.200}")


def _plain_from_json(value: JsonValue) -> object:
    """The value that `_plain_to_json` wrote."""
    if isinstance(value, list):
        return [_plain_from_json(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "number":
        return float(str(inner))
    assert isinstance(inner, list)
    if kind == "tuple":
        return tuple(_plain_from_json(part) for part in inner)
    pairs = {_plain_from_json(key): _plain_from_json(part) for key, part in inner}  # type: ignore[misc, str-unpack] # pairs, as written above
    return Counter(pairs) if kind == "counter" else pairs
