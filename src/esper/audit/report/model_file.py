"""The test that a model file holds the model that came out of a run: its tensors are digested as the run's end digested its own.

RunFinished has a sha256 over names, types, shapes and bytes of all tensors of the host, as `model/<name>`, and of every seed that has a
body, as `seeds/<site>/<slot>/<name>`. A checkpoint has its tensors under these very names. What `Result.save` writes has the plain model's
names, and only the seeds that act: the log says which layers are sites and which seeds are part of the host, so the names can be given
back. A seed that has a body and no part in the model is in the digest and not in such a file; then the two cannot be compared.
"""

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple

import duckdb

from esper.errors import DataError
from esper.folds.transitions import IN_TASK_GRAPH

_FILES = ("model.safetensors", "tensors.safetensors")
_LONGEST_HEADER = 100 << 20  # As the safetensors library has it.
# safetensors' names of types: torch's name, and bytes per element.
_TYPES: Mapping[str, tuple[str, int]] = {
    "F64": ("float64", 8), "F32": ("float32", 4), "F16": ("float16", 2), "BF16": ("bfloat16", 2), "C64": ("complex64", 8),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("uint8", 1), "BOOL": ("bool", 1),
    "U64": ("uint64", 8), "U32": ("uint32", 4), "U16": ("uint16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1), "F8_E5M2": ("float8_e5m2", 1),
}  # fmt: skip
_HAS_BODY = {stage.value for stage in IN_TASK_GRAPH} | {"LOADING", "TRAINING"}
SlotKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """A file against the log; `unknown`: the two cannot be compared. `why` has the reason, `epoch` the last that ended with the same."""

    path: str
    verdict: Literal["same", "other", "unknown"]
    why: str
    form: Literal["checkpoint", "model"] | None = None
    tensors: int | None = None
    digest: str | None = None
    expected: str | None = None
    epoch: int | None = None


class Tensor(NamedTuple):
    """A tensor in a file: torch's name of its type, its shape, and where its bytes stand."""

    type: str
    shape: tuple[int, ...]
    start: int
    end: int


def compare_model(connection: duckdb.DuckDBPyConnection, run: str, path: Path) -> ComparedModel:
    """The file at `path`, or the one in that folder, against the end of `run`. What cannot be read or compared is unknown."""
    expected = digest_at_end(connection, run)
    try:
        file = _file_at(path)
        with _mapped(file) as data:
            tensors = tensors_in(data, str(file))
            if any(name.startswith("model/") for name in tensors):
                form: Literal["checkpoint", "model"] = "checkpoint"
                named = {name: one for name, one in tensors.items() if name.startswith(("model/", "seeds/"))}
            else:
                form, named = "model", logged_names(tensors, _sites(connection, run), _fossilized(connection, run))
            digest = tensors_digest(named, data)
    except DataError as error:
        return ComparedModel(str(path), "unknown", str(error), expected=expected)
    found = ComparedModel(str(file), "other", "", form, len(named), digest, expected, _epoch_of(connection, run, digest))
    if digest == expected:
        return replace(found, verdict="same", why="every tensor's name, type, shape and bytes are those of the model at the run's end")
    left_out = _bodies(connection, run) - slots_in(named) if form == "model" else set()
    if expected is None:
        return replace(found, verdict="unknown", why="the log has no digest of a model that came out: the run has not finished")
    if left_out:
        return replace(found, verdict="unknown", why=_left_out(left_out))
    return replace(found, why="its tensors are not those of the model at the run's end")


def digest_at_end(connection: duckdb.DuckDBPyConnection, run: str) -> str | None:
    """The digest of the model that came out of `run`; None where the log has none."""
    return _one(connection, "SELECT arg_max(model_digest, moment) FROM run_ends WHERE run = ? AND status = 'finished'", run)


def tensors_in(data: mmap.mmap | bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises DataError for anything else."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(_LONGEST_HEADER, len(data) - 8):
        raise DataError(f"{name}: expected a safetensors file, got {len(data)} bytes without its header")
    try:
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        return {str(key): _tensor(entry, 8 + size, len(data)) for key, entry in header.items()}
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{name}: expected a safetensors file, got a header that is none: {error}") from error


def tensors_digest(tensors: Mapping[str, Tensor], data: mmap.mmap | bytes) -> str:
    """sha256 over names, types, shapes and bytes, by name: the digest that a run's end has."""
    digest = hashlib.sha256()
    with memoryview(data) as view:
        for name in sorted(tensors):
            kind, shape, start, end = tensors[name]
            digest.update(f"{name}\0torch.{kind}\0{shape}\0".encode())
            with view[start:end] as part:
                digest.update(part)
    return digest.hexdigest()


def logged_names(tensors: Mapping[str, Tensor], sites: set[str], fossilized: set[SlotKey]) -> dict[str, Tensor]:
    """The tensors of a plain model under the names that the run's own had. A fossilized seed is part of the host: it has two."""
    found: dict[str, Tensor] = {}
    grown = {site for site in sites if any(name.startswith(_prefix(site) + "seeds.") for name in tensors)}
    for name, tensor in tensors.items():
        site = next((one for one in grown if name.startswith((_prefix(one) + "layer.", _prefix(one) + "seeds."))), None)
        if site is None:
            found[f"model/{name}"] = tensor
            continue
        part, _, rest = name.removeprefix(_prefix(site)).partition(".")
        if part == "layer":
            found[f"model/{_prefix(site)}{rest}"] = tensor
            continue
        slot, _, inner = rest.partition(".")
        found[f"seeds/{site}/{slot}/{inner}"] = tensor
        if slot.isdecimal() and (site, int(slot)) in fossilized:
            found[f"model/{name}"] = tensor
    return found


def slots_in(named: Mapping[str, Tensor]) -> set[SlotKey]:
    """The slots whose seeds have tensors among `named`."""
    parts = (name.removeprefix("seeds/").rsplit("/", 2) for name in named if name.startswith("seeds/"))
    return {(site, int(slot)) for site, slot, _ in parts if slot.isdecimal()}


def _prefix(site: str) -> str:
    return f"{site}." if site else ""


def _tensor(entry: Mapping[str, object], start: int, size: int) -> Tensor:
    kind, width = _TYPES[str(entry["dtype"])]
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError("a shape or a place is no list")
    first, last = (int(offset) for offset in offsets)
    sides = tuple(int(side) for side in shape)
    if first < 0 or start + last > size or last - first != prod(sides) * width:
        raise ValueError(f"{last - first} bytes at {first} for {kind} of {sides}")
    return Tensor(kind, sides, start + first, start + last)


def _file_at(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: expected a safetensors file, got none that can be read: it is no file")
    found = [path / name for name in _FILES if (path / name).is_file()]
    if not found:
        raise DataError(f"{path}: expected {' or '.join(_FILES)} in it, got neither")
    return found[0]


@contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data
    except (OSError, ValueError) as error:  # mmap refuses an empty file with a ValueError.
        raise DataError(f"{path}: expected a safetensors file, got none that can be read: {error}") from error


def _left_out(slots: set[SlotKey]) -> str:
    named = ", ".join(f"site {site} slot {slot}" for site, slot in sorted(slots))
    return (
        f"the digest in the log covers seeds too that the run ended with and that are no part of its model ({named}); a saved model does "
        "not have them. The run's last checkpoint has them: compare that"
    )


def _sites(connection: duckdb.DuckDBPyConnection, run: str) -> set[str]:
    return {site for (site,) in connection.execute("SELECT site FROM sites WHERE run = ?", [run]).fetchall()}


def _ended(connection: duckdb.DuckDBPyConnection, run: str) -> list[tuple[str, int, str]]:
    """Every slot with the stage that it ended in."""
    moment = _one(connection, "SELECT CAST(max(moment) AS VARCHAR) FROM events WHERE run = ?", run)
    return [] if moment is None else connection.execute(f"SELECT site, seed, stage FROM seeds_at(?, {int(moment)})", [run]).fetchall()


def _fossilized(connection: duckdb.DuckDBPyConnection, run: str) -> set[SlotKey]:
    return {(site, seed) for site, seed, stage in _ended(connection, run) if stage == "FOSSILIZED"}


def _bodies(connection: duckdb.DuckDBPyConnection, run: str) -> set[SlotKey]:
    return {(site, seed) for site, seed, stage in _ended(connection, run) if stage in _HAS_BODY}


def _epoch_of(connection: duckdb.DuckDBPyConnection, run: str, digest: str) -> int | None:
    found = connection.execute("SELECT max(epoch) FROM epochs WHERE run = ? AND digests_parameters = ?", [run, digest]).fetchall()
    return None if found[0][0] is None else int(found[0][0])


def _one(connection: duckdb.DuckDBPyConnection, statement: str, run: str) -> str | None:
    value = connection.execute(statement, [run]).fetchall()[0][0]
    return None if value is None else str(value)
