"""Checkpoints: the whole training state at the start of an epoch, as a JSON manifest and a safetensors file. Nothing is unpickled.

A checkpoint is a folder written under a temporary name, fsynced, then renamed: it is there whole or not at all. Its digest is sha256
over the manifest, which contains the sha256 of the tensors. Nothing in it names a run or a moment, so that two runs of the same training
have the same digests; ids of events are found again in the log.
"""

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from esper.errors import DataError, LogError
from esper.events.digests import canonical

_FORMAT = 1
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"


class Snapshot(NamedTuple):
    """A training state: tensors by name, and `body`: all else that numbers depend on."""

    tensors: dict[str, Tensor]
    body: dict[str, JsonValue]


class _Saved(NamedTuple):
    """A checkpoint that is on disk."""

    name: str
    digest: str
    size_bytes: int


def name_of(epoch: int) -> str:
    """The name of the checkpoint that stands at the end of `epoch`, before the next."""
    return f"epoch-{epoch:06d}"


def save_checkpoint(folder: Path, name: str, snapshot: Snapshot) -> _Saved:
    """Writes `snapshot` under `folder`/`name`; durable and whole when it returns. An older one of that name is replaced.

    Raises LogError, naming it, where it cannot be written: a full disk.
    """
    data = save({key: tensor.detach().cpu().clone().contiguous() for key, tensor in snapshot.tensors.items()})
    body = {"format": _FORMAT, "tensors_sha256": hashlib.sha256(data).hexdigest(), **snapshot.body}
    manifest = json.dumps(body, allow_nan=False, indent=1).encode()
    try:
        _put(folder, name, {TENSORS: data, MANIFEST: manifest})
    except OSError as error:
        raise LogError(f"cannot save checkpoint {folder / name}: {error.strerror}; what was saved before stands") from error
    return _Saved(name, _digest(body), len(data) + len(manifest))


def _put(folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Writes the folder of a checkpoint under another name, then renames it; what could not be written is removed again."""
    temporary = folder / f".{name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for file, content in files.items():
            _write_durably(temporary / file, content)
        _sync_folder(temporary)
        final = folder / name
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
        _sync_folder(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_checkpoint(folder: Path, name: str, expected_digest: str, device: torch.device) -> Snapshot:
    """The snapshot saved as `name`, verified as `verify_checkpoint` does. Raises DataError, naming the file."""
    body, data = _verified(folder / name, expected_digest)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise DataError(f"checkpoint {folder / name / TENSORS}: {error}") from error
    return Snapshot({key: tensor.to(device) for key, tensor in tensors.items()}, body)


def verify_checkpoint(folder: Path, name: str, expected_digest: str) -> None:
    """Raises DataError, naming the file, where the checkpoint is missing, damaged or not what was logged."""
    _verified(folder / name, expected_digest)


def _verified(path: Path, expected_digest: str) -> tuple[dict[str, JsonValue], bytes]:
    try:
        body = json.loads((path / MANIFEST).read_bytes())
        data = (path / TENSORS).read_bytes()
        digest = _digest(body)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"checkpoint {path}: expected {MANIFEST} and {TENSORS}, whole: {error!r}") from error
    if digest != expected_digest:
        raise DataError(f"checkpoint {path / MANIFEST}: the log expects digest {expected_digest[:16]}, the file has {digest[:16]}")
    if (found := hashlib.sha256(data).hexdigest()) != body["tensors_sha256"]:
        raise DataError(f"checkpoint {path / TENSORS}: expected sha256 {body['tensors_sha256'][:16]}, got {found[:16]}")
    if body["format"] != _FORMAT:
        raise DataError(f"checkpoint {path}: expected format {_FORMAT}, got {body['format']!r}")
    return body, data


def prune_checkpoint(folder: Path, name: str) -> None:
    """Removes the files of a checkpoint, if they are still there."""
    shutil.rmtree(folder / name, ignore_errors=True)


def flatten_optimizer(name: str, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], JsonValue]:
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
    return tensors, plain_to_json(rest, f"the state of optimizer {name}")


def restore_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], saved: JsonValue) -> None:
    """Restore the state that `flatten_optimizer` took. Raises ValueError for another class, KeyError for a missing tensor."""
    rest = plain_from_json(saved)
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


def _digest(body: Mapping[str, JsonValue]) -> str:
    return hashlib.sha256(canonical(dict(body))).hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain_to_json(value: object, what: str) -> JsonValue:
    """`value` as JSON that `plain_from_json` restores exactly: tuples, maps with keys that are not text, and numbers that are not finite.

    A list and a plain value stand as they are; anything else is an object with one key that names its type. Raises DataError
    naming `what` where it holds anything but plain values (a function, a tensor)."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"number": str(float(value))}
    if isinstance(value, list):
        return [plain_to_json(part, what) for part in value]
    if isinstance(value, tuple):
        return {"tuple": [plain_to_json(part, what) for part in value]}
    if isinstance(value, Mapping):
        pairs: list[JsonValue] = [[plain_to_json(key, what), plain_to_json(part, what)] for key, part in value.items()]
        return {"counter" if isinstance(value, Counter) else "map": pairs}
    raise DataError(f"a checkpoint holds tensors and plain values only; {what} holds a {type(value).__name__}: {value!r:.200}")


def plain_from_json(value: JsonValue) -> object:
    """The value that `plain_to_json` wrote."""
    if isinstance(value, list):
        return [plain_from_json(part) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "number":
        return float(str(inner))
    assert isinstance(inner, list)
    if kind == "tuple":
        return tuple(plain_from_json(part) for part in inner)
    pairs = {plain_from_json(key): plain_from_json(part) for key, part in inner}  # type: ignore[misc, str-unpack] # pairs, as written above
    return Counter(pairs) if kind == "counter" else pairs
