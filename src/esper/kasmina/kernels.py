"""Kernels: a blueprint compiled for one life of one seed, as a content-addressed file that is verified on load.

A *request* (spec, rng seed, dtype) names a kernel before it exists: its key is sha256 over format, spec, rng seed and dtype. Compiling is:
build, initialise, probe at batch 1 and 2, prove that the delta at birth is zero, finite forward and backward, two equal forwards, measure,
write. The file is safetensors whose metadata holds the spec; it is written to a temporary name, fsynced and renamed, so that a key either
stands for a whole kernel or for none. Nothing is ever unpickled. A file that does not verify is made again.
Measured on two CPU cores: 2 ms to make or load; torch.compile takes 12-20 s and is slower for such bodies.

No global random number is drawn in here: orders are compiled on a thread beside training, which shares the process's generator.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from esper.errors import DataError, RuleError
from esper.events.digests import canonical, digest_of
from esper.kasmina.blueprints import FORMAT, build, initialise, outputs_of, probe
from esper.kasmina.branch import Branch

CHECKS = ("shapes at batch 1 and 2", "zero delta at birth", "finite forward and backward", "two equal forwards")
_Dtype = Literal["float32", "float64", "bfloat16", "float16"]
DTYPES: dict[_Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class KernelError(DataError):
    """No kernel could be made from a blueprint, or its file is damaged."""


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """Input of a compilation: the spec, the rng seed of the initial weights, and their dtype. Its key names the kernel before it exists."""

    spec: str
    rng_seed: int
    dtype: _Dtype = "float32"

    @property
    def key(self) -> str:
        """sha256 over format, spec, rng seed and dtype, as 64 hex digits."""
        return digest_of({"format": FORMAT, "spec": self.spec, "rng_seed": str(self.rng_seed), "dtype": self.dtype})


@dataclass(frozen=True, slots=True)
class _Characterization:
    """Cost of a kernel: FLOPs of one forward at batch 1 (for a Conv2d on the image of `probe`), bytes of its parameters.

    The latency is this machine's, the least of five.
    """

    parameters: int
    flops: int
    memory_bytes: int
    latency_ms: float
    checks: tuple[str, ...] = CHECKS


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled blueprint. `digest` is sha256 over its key and its tensors, the same wherever and whenever it is made."""

    order: KernelRequest
    digest: str
    characterization: _Characterization
    from_cache: bool
    duration_ms: float
    tensors: Mapping[str, Tensor] = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        """The key of the order."""
        return self.order.key

    def branch(self) -> Branch:
        """A fresh branch with the kernel's weights, on the CPU, at alpha 0."""
        branch = empty_branch(self.order.spec, DTYPES[self.order.dtype])
        branch.load_state_dict(dict(self.tensors))
        branch.set_alpha(0.0)
        return branch


def empty_branch(spec: str, dtype: torch.dtype) -> Branch:
    """An unfilled branch of `spec` on the CPU."""
    return Branch(build(spec)).to(dtype).to_empty(device="cpu")


@lru_cache(maxsize=1024)
def parameter_count(spec: str) -> int:
    """Number of parameters of a body of `spec`, counted without memory for them."""
    built = build(spec)
    return sum(p.numel() for part in (built.features, built.last) for p in part.parameters())


class KernelCache:
    """A folder of kernels, `<key>.safetensors` each.

    Any number of threads and processes may use it: a rename replaces a file by an equal one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def get(self, order: KernelRequest) -> Kernel | None:
        """The kernel of `order` if its file is there and verifies, else None."""
        try:
            return _read(order, self._file(order))
        except KernelError:
            return None

    def put(self, order: KernelRequest, tensors: dict[str, Tensor], characterization: _Characterization, duration_ms: float) -> Kernel:
        """The kernel of `order`, durable when this returns. Raises KernelError; the key then stands for a whole kernel or for none."""
        digest = _digest(order, tensors)
        fields: dict[str, str] = {"spec": order.spec, "rng_seed": str(order.rng_seed), "dtype": order.dtype, "digest": digest}
        _write(self._file(order), save(tensors, fields | {"characterization": json.dumps(asdict(characterization))}))
        return Kernel(order, digest, characterization, from_cache=False, duration_ms=duration_ms, tensors=tensors)

    def _file(self, order: KernelRequest) -> Path:
        return self.path / f"{order.key}.safetensors"


def compile_kernel(order: KernelRequest, cache: KernelCache) -> Kernel:
    """The kernel of `order`, from the cache or made and checked now. Raises KernelError, DataError for a spec that is none."""
    started = time.perf_counter()
    cached = cache.get(order)
    if cached is not None:
        return replace(cached, duration_ms=1e3 * (time.perf_counter() - started))
    branch = empty_branch(order.spec, DTYPES[order.dtype])
    branch.set_alpha(0.0)
    initialise(branch.features, branch.last, order.rng_seed)
    characterization = check(branch, order)
    tensors = {name: tensor.detach().clone() for name, tensor in branch.state_dict().items()}
    return cache.put(order, tensors, characterization, 1e3 * (time.perf_counter() - started))


def check(branch: Branch, order: KernelRequest) -> _Characterization:
    """Cost of the body, measured after all `CHECKS`. Raises KernelError naming the check. Runs in eval mode: dropout draws nothing."""
    branch.eval()
    for batch in (1, 2):
        x = probe(order.spec, batch, order.rng_seed, DTYPES[order.dtype])
        delta = branch.body(x)[1]
        if delta.shape[:2] != (batch, outputs_of(order.spec)):
            raise KernelError(f"expected an output of {(batch, outputs_of(order.spec))}, got {tuple(delta.shape)}: {order.spec}")
        if torch.count_nonzero(delta):
            raise KernelError(f"expected a zero delta at birth, got up to {float(delta.detach().abs().max())!r}: {order.spec}")
        if not torch.equal(delta, branch.body(x)[1]):
            raise KernelError(f"expected two equal forwards: {order.spec}")
        _check_backward(branch, x, order)
    characterization = _measure(branch, order)
    branch.train()
    return characterization


def _check_backward(branch: Branch, x: Tensor, order: KernelRequest) -> None:
    hidden, delta = branch.body(x)
    parameters = list(branch.parameters())
    gradients = torch.autograd.grad(delta.sum() + hidden.sum(), parameters)
    if not all(bool(torch.isfinite(value).all()) for value in (hidden, *gradients)):
        raise KernelError(f"expected finite values forward and backward: {order.spec}")


def _measure(branch: Branch, order: KernelRequest) -> _Characterization:
    x = probe(order.spec, 1, order.rng_seed, DTYPES[order.dtype])
    with torch.no_grad():
        flops = _flops(branch, x)
        laps = []
        for _ in range(5):
            started = time.perf_counter()
            branch.body(x)
            laps.append(1e3 * (time.perf_counter() - started))
    parameters = list(branch.parameters())
    size = sum(p.numel() * p.element_size() for p in parameters)
    return _Characterization(sum(p.numel() for p in parameters), flops, size, min(laps))


def _flops(branch: Branch, x: Tensor) -> int:
    """Two per multiply-add of the affine layers, as torch's own counter has it (that one sets hooks on every module of the process)."""
    flops = 0
    for layer in (*branch.features, branch.last):
        x = layer(x)
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            flops += 2 * x.numel() * layer.weight[0].numel()
    return flops


def _digest(order: KernelRequest, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(order.key.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, payload: bytes) -> None:
    """Data, then name, then the folder that holds the name: each durable before the next."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise KernelError(f"expected to write {path}: {error}") from error


def _read(order: KernelRequest, path: Path) -> Kernel:
    try:
        with safe_open(path, framework="pt") as file:
            fields = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        raw = json.loads(fields["characterization"])
        characterization = _Characterization(**{**raw, "checks": tuple(raw["checks"])})
        digest = fields["digest"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise KernelError(f"expected a kernel in {path.name}, got a damaged file: {error!r}") from error
    if _digest(order, tensors) != digest:
        raise KernelError(f"expected the kernel of {order.key} in {path.name}: these tensors are not its")
    return Kernel(order, digest, characterization, from_cache=True, duration_ms=0.0, tensors=tensors)


class KernelCompiler:
    """A thread that compiles kernels beside training, one after another, in the order of submission.

    It emits nothing and takes nothing from training. Its queue is bounded by the slots of the host: a slot has one order at a time.
    """

    def __init__(self, cache: KernelCache) -> None:
        self.cache = cache
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esper-kernels")
        self._orders: dict[str, Future[Kernel]] = {}

    def submit(self, order: KernelRequest) -> None:
        """Compiles `order` soon; an order submitted before is not compiled again."""
        if order.key not in self._orders:
            self._orders[order.key] = self._thread.submit(compile_kernel, order, self.cache)

    def wait(self, key: str, timeout_s: float) -> Kernel:
        """The kernel of a submitted order; raises what compiling it raised, KernelError when it is not there in time."""
        if key not in self._orders:
            raise RuleError(f"expected the key of a submitted order, got {key!r}")
        try:
            return self._orders[key].result(timeout_s)
        except LateError as error:
            raise KernelError(f"expected kernel {key[:12]} within {timeout_s:g} s, it is still being compiled") from error

    def close(self) -> None:
        """Ends the thread after the order it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)
