"""Same settings, same machine, same numbers: threads, deterministic algorithms, random streams without state, digests of the state.

Every random stream is derived from (rng_seed, purpose, ...) by a hash, so nothing but the epoch's number has to be restored.
"""

import ctypes
import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from operator import is_
from pathlib import Path
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from esper.events.kinds.run import Determinism
from esper.kasmina.randomness import derive
from esper.variables import AT_IMPORT

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
# MKL's code paths by number, as its mkl_types.h has them; 1 is none.
_CODE_PATHS = {2: "AUTO", 3: "COMPATIBLE", 4: "SSE2", 6: "SSSE3", 7: "SSE4_1", 8: "SSE4_2", 9: "AVX", 10: "AVX2", 12: "AVX512"}
_STRICT = 0x10000

_Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random
# How far generators are looked for: a loader, its sampler, its data set, that one's transforms and what those are made of.
_DEPTH, _WIDTH = 8, 64


@contextmanager
def deterministic(device: torch.device, threads: int, *, enabled: bool = True) -> Iterator[None]:
    """Within, torch uses `threads` threads (with BatchNorm, two give other bits than one) and, where `enabled`, deterministic algorithms.

    Afterwards flags, threads and the random state of torch, numpy and Python are what they were. On CUDA, cuBLAS needs
    CUBLAS_WORKSPACE_CONFIG before its first call; it is set here when absent, and stays.
    """
    before = torch.get_num_threads(), torch.backends.cudnn.benchmark
    was_enabled, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(enabled)
    if enabled:
        os.environ.setdefault(_CUBLAS, ":4096:8")
        torch.backends.cudnn.benchmark = False
    try:
        with undisturbed(device):
            yield
    finally:
        torch.use_deterministic_algorithms(was_enabled, warn_only=warn_only)
        torch.set_num_threads(before[0])
        torch.backends.cudnn.benchmark = before[1]


def determinism_settings(digest: Literal["full", "parameters", "off"]) -> Determinism:
    """Determinism settings for RunStarted: read back from torch and MKL; variables are those that were read, not what they are now."""
    return Determinism(
        threads=torch.get_num_threads(),
        deterministic_algorithms=torch.are_deterministic_algorithms_enabled(),
        mkl_cbwr=_code_path(),
        variables=AT_IMPORT | ({_CUBLAS: os.environ[_CUBLAS]} if _CUBLAS in os.environ else {}),
        digest=digest,
    )


def _code_path() -> str | None:
    """The code path that MKL is pinned to; None: to none, or there is no MKL that says."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        found: int = library.mkl_serv_cbwr_get(-1)
    except (OSError, AttributeError):
        return AT_IMPORT.get("MKL_CBWR") if torch.backends.mkl.is_available() else None
    name = _CODE_PATHS.get(found & ~_STRICT)
    return name and name + (",STRICT" if found & _STRICT else "")


def without_a_kernel(error: BaseException) -> str | None:
    """The way to go on after `error` of an operation that torch has no deterministic kernel for; None after any other."""
    if not isinstance(error, RuntimeError) or "use_deterministic_algorithms" not in str(error):
        return None
    return (
        "an operation has no deterministic kernel here: deterministic=False (esper train --no-deterministic) trains with the one there is; "
        "its log says so, and numbers are no longer the same from run to run"
    )


def seed_epoch(rng_seed: int, epoch: int) -> None:
    """Start the random streams of `epoch` anew, torch's, Python's and numpy's: data order, dropout, augmentation draw from them."""
    seed = derive(rng_seed, "epoch", epoch)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # The same here, without a trace of the stack for each device that is absent.
    random.seed(derive(rng_seed, "epoch", epoch, "python"))
    np.random.seed(derive(rng_seed, "epoch", epoch, "numpy") % 2**32)


def seed_own(source: object, rng_seed: int, epoch: int) -> None:
    """Start every generator in `source` anew for `epoch`, whatever its seed was: a loader's, its samplers', data set's, transforms'.

    The state of such a generator in the middle of a run is unknown when the run is resumed.
    """
    generators = (part for part in _reachable(source, set(), _DEPTH) if isinstance(part, _Generator))
    for number, generator in enumerate(generators):
        seed = derive(rng_seed, "epoch", epoch, "own", number)
        match generator:
            case torch.Generator():
                generator.manual_seed(seed)
            case np.random.Generator():
                kind: type[np.random.BitGenerator] = type(generator.bit_generator)
                generator.bit_generator.state = kind(seed).state
            case np.random.RandomState():
                generator.seed(seed % 2**32)
            case random.Random():
                generator.seed(seed)


def inexact(source: object) -> str | None:
    """The reason why a run that trains on `source` would not be resumed exactly, as far as it shows; None: there is none."""
    if isinstance(source, Iterator):
        return f"a {type(source).__name__} cannot begin anew with every epoch: this run cannot be resumed"
    for part in _reachable(source, set(), _DEPTH):
        if isinstance(part, DataLoader) and part.persistent_workers:
            return (
                "the workers of a DataLoader with persistent_workers=True keep their random state from epoch to epoch: where its data set "
                "draws random numbers, a resume of this run will not be exact"
            )
        # Looked through once, not into: a data set may hold millions of samples.
        kept = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        if len(kept) > _WIDTH and any(isinstance(one, _Generator) for one in kept):
            return (
                f"a {type(part).__name__} of {len(kept)} holds generators, and those of more than {_WIDTH} are not seeded anew with every "
                "epoch: a resume of this run will not be exact"
            )
    return None


def _reachable(source: object, seen: set[int], depth: int) -> Iterator[object]:
    """`source` and what it is made of, each once; what long lists and maps hold is left out."""
    if id(source) in seen or isinstance(source, type | ModuleType | Tensor):
        return
    seen.add(id(source))
    yield source
    if depth == 0 or isinstance(source, _Generator):
        return
    parts = list(_parts(source))
    if len(parts) <= _WIDTH:
        for part in parts:
            yield from _reachable(part, seen, depth - 1)


def _parts(source: object) -> Iterable[object]:
    """Contents of `source`: its items or attributes; of a function what it closes over, its defaults, and generators that it names."""
    match source:
        case dict():
            return source.values()
        case list() | tuple():
            return source
        case partial():
            return (source.func, *source.args, *source.keywords.values())
        case FunctionType():
            cells = (cell.cell_contents for cell in source.__closure__ or () if cell != CellType())
            named = (source.__globals__.get(name) for name in source.__code__.co_names)
            defaults = (*(source.__defaults__ or ()), *(source.__kwdefaults__ or {}).values())
            return (*cells, *defaults, *(part for part in named if isinstance(part, _Generator)))
        case MethodType() | BuiltinMethodType():
            return (source.__self__, getattr(source, "__func__", None))
    return getattr(source, "__dict__", {}).values()


@contextmanager
def untouched(source: object) -> Iterator[None]:
    """Within, `source` may be read; afterwards it holds what it held, and so does what it is made of.

    A data set that opens its file when it is first read is closed again, so that each of a loader's workers opens one of its own.
    """
    reached = list(_reachable(source, set(), _DEPTH))
    lists = [(part, part.copy()) for part in reached if isinstance(part, list)]
    named = [part if isinstance(part, dict) else getattr(part, "__dict__", None) for part in reached]
    maps = [(part, part.copy()) for part in named if isinstance(part, dict)]
    try:
        yield
    finally:
        for items, kept in lists:
            if not _same(items, kept):
                items[:] = kept
        for held, before in maps:
            if not (_same(list(held), list(before)) and _same(list(held.values()), list(before.values()))):
                held.clear()
                held.update(before)


def _same(one: list[object], other: list[object]) -> bool:
    """Both hold the very same objects, in the same order."""
    return len(one) == len(other) and all(map(is_, one, other))


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Within, random draws leave no trace: the state of torch, Python and numpy is restored."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def digest_of_tensors(tensors: Mapping[str, Tensor], plain: bytes = b"") -> str:
    """sha256 over `plain`, then names, dtypes, shapes and bytes, by name. Waits for the device; about 2 ms per million floats."""
    digest = hashlib.sha256(plain)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def random_state_digest(device: torch.device) -> str:
    """sha256 over the state of the CPU's generator, and of the device's where it has one."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return digest_of_tensors(states)


def total_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The 2-norm over all gradients, as a 0-dim tensor on their device; 0 where there is none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
