"""Kernels: a blueprint compiled for one life of one seed, as a file that is named by what it is made from, and compared with it on load.

A *request* (spec, rng seed, dtype) names a kernel before it exists: its key is sha256 over format, spec, rng seed and dtype. Compiling is:
build, initialise, probe at batch 1 and 2, prove that the delta at birth is zero, finite forward and backward, two equal forwards, measure,
write. The file is safetensors whose metadata holds the spec; it is written to a temporary name, fsynced and renamed, so that a key either
stands for a whole kernel or for none, and any number of threads and processes may share a folder. Nothing is ever unpickled. A file that
does not verify is made again. Measured on two CPU cores: 2 ms to make or load; torch.compile takes 12-20 s and is slower for such bodies.

No global random number is drawn in here: kernels are compiled on a thread beside training, which shares the process's generator.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from esper.durable import replace_durably
from esper.errors import DataError, RuleError
from esper.events.digests import canonical, digest_of
from esper.events.kinds.kernels import KernelCharacterized
from esper.kasmina.blueprints import SPEC_FORMAT, build, features_of, initialise, read_spec
from esper.kasmina.branch import Branch

CHECKS = ("shapes at batch 1 and 2", "zero delta at birth", "finite forward and backward", "two equal forwards")
_Dtype = Literal["float32", "float64", "bfloat16", "float16"]
DTYPES: dict[_Dtype, torch.dtype] = {name: getattr(torch, name) for name in get_args(_Dtype)}


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
        return digest_of({"format": SPEC_FORMAT, "spec": self.spec, "rng_seed": str(self.rng_seed), "dtype": self.dtype})

    def empty_branch(self) -> Branch:
        """An unfilled branch of the spec and dtype, on the CPU."""
        return Branch(*build(self.spec)).to(DTYPES[self.dtype]).to_empty(device="cpu")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled blueprint. Its characterization holds key and digest; the latency is this machine's, the least of five.

    The digest is sha256 over the key and the tensors, the same wherever and whenever the kernel is made.
    """

    request: KernelRequest
    characterization: KernelCharacterized
    tensors: Mapping[str, Tensor] = field(repr=False, compare=False)
    from_cache: bool
    duration_ms: float = 0.0

    @property
    def digest(self) -> str:
        """The digest of key and tensors."""
        return self.characterization.kernel

    def branch(self) -> Branch:
        """A fresh branch with the kernel's weights, on the CPU, at alpha 0."""
        branch = self.request.empty_branch()
        branch.load_state_dict(dict(self.tensors))
        branch.set_alpha(0.0)
        return branch


@lru_cache(maxsize=1024)
def parameter_count(spec: str) -> int:
    """Number of parameters of a body of `spec`, counted without memory for them."""
    return sum(parameter.numel() for parameter in Branch(*build(spec)).parameters())


def compile_kernel(request: KernelRequest, folder: Path) -> Kernel:
    """The kernel of `request`, from its file in `folder`, or made, checked and durable there when this returns.

    Raises KernelError, DataError for a spec that is none; the key then stands for a whole kernel or for none.
    """
    started = time.perf_counter()
    path = folder / f"{request.key}.safetensors"
    if folder.is_symlink():
        raise KernelError(f"expected a folder at {folder}, got a link: Esper writes no kernel through one")
    try:
        kernel = _read(request, path)
    except KernelError:
        kernel = _make(request, path)
    return replace(kernel, duration_ms=1e3 * (time.perf_counter() - started))


def _make(request: KernelRequest, path: Path) -> Kernel:
    branch = request.empty_branch()
    branch.set_alpha(0.0)
    initialise(branch.features, branch.last, request.rng_seed)
    check(branch, request)
    tensors = {name: tensor.detach().clone() for name, tensor in branch.state_dict().items()}
    characterization = _measure(branch, request, _digest(request, tensors))
    measured = json.dumps(characterization.model_dump(exclude={"key", "kernel"}))
    metadata: dict[str, str] = {"spec": request.spec, "rng_seed": str(request.rng_seed), "dtype": request.dtype}
    _write(path, save(tensors, metadata | {"digest": characterization.kernel, "characterization": measured}))
    return Kernel(request, characterization, tensors, from_cache=False)


def check(branch: Branch, request: KernelRequest) -> None:
    """Makes all `CHECKS` of the body, and leaves it in eval mode: dropout draws nothing. Raises KernelError naming the check."""
    branch.eval()
    spec = request.spec
    _, outputs = features_of(read_spec(spec)[1])
    for batch in (1, 2):
        x = _probe(request, batch)
        hidden, delta = branch.body(x)
        if delta.shape[:2] != (batch, outputs):
            raise KernelError(f"expected an output of {(batch, outputs)}, got {tuple(delta.shape)}: {spec}")
        if torch.count_nonzero(delta):
            raise KernelError(f"expected a zero delta at birth, got up to {float(delta.detach().abs().max())!r}: {spec}")
        if not torch.equal(delta, branch.body(x)[1]):
            raise KernelError(f"expected two equal forwards: {spec}")
        gradients = torch.autograd.grad(delta.sum() + hidden.sum(), list(branch.parameters()))
        if not all(bool(torch.isfinite(value).all()) for value in (hidden, *gradients)):
            raise KernelError(f"expected finite values forward and backward: {spec}")


def _probe(request: KernelRequest, batch: int) -> Tensor:
    """An input of `batch` samples that the layer of the spec would take, drawn from a generator of its own."""
    _, layer = read_spec(request.spec)
    size = [features_of(layer)[0]]
    if not isinstance(layer, nn.Linear):
        size += [max(8, dilation * (kernel - 1) + 1) for dilation, kernel in zip(layer.dilation, layer.kernel_size, strict=True)]
    generator = torch.Generator().manual_seed(request.rng_seed)
    return torch.randn(batch, *size, generator=generator, device="cpu", dtype=torch.float32).to(DTYPES[request.dtype])


def _measure(branch: Branch, request: KernelRequest, digest: str) -> KernelCharacterized:
    """Cost of the body at batch 1 (beside a convolution on the input of `_probe`), on the CPU."""
    x = _probe(request, 1)
    with torch.no_grad():
        flops = _flops(branch, x)
        latency_s = min(_timed(branch, x) for _ in range(5))
    parameters = list(branch.parameters())
    return KernelCharacterized(
        key=request.key,
        kernel=digest,
        parameters=sum(p.numel() for p in parameters),
        flops=flops,
        latency_ms=1e3 * latency_s,
        memory_bytes=sum(p.numel() * p.element_size() for p in parameters),
        checks=CHECKS,
    )


def _timed(branch: Branch, x: Tensor) -> float:
    """Seconds of one call. (timeit would switch the garbage collector of the whole process off and on.)"""
    began = time.perf_counter()
    branch.body(x)
    return time.perf_counter() - began


def _flops(branch: Branch, x: Tensor) -> int:
    """Two per multiply-add of the affine layers, as torch's own counter has it (that one sets hooks on every module of the process)."""
    flops = 0
    for layer in (*branch.features, branch.last):
        x = layer(x)
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            flops += 2 * x.numel() * layer.weight[0].numel()
    return flops


def _digest(request: KernelRequest, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(request.key.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(canonical([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(path: Path, payload: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(path, payload)
    except OSError as error:
        raise KernelError(f"expected to write {path}: {error}") from error


def _read(request: KernelRequest, path: Path) -> Kernel:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        measured = json.loads(metadata["characterization"])
        measured["checks"] = tuple(measured["checks"])
        characterization = KernelCharacterized(key=request.key, kernel=metadata["digest"], **measured)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise KernelError(f"expected a kernel in {path.name}, got a damaged file: {error!r}") from error
    if _digest(request, tensors) != characterization.kernel:
        raise KernelError(f"expected the kernel of {request.key} in {path.name}: these tensors are not its")
    _require_made(request, tensors, path)
    return Kernel(request, characterization, tensors, from_cache=True)


def _require_made(request: KernelRequest, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises KernelError unless `tensors` are what making the kernel gives: the digest in a file is by whoever wrote it.

    Other processors round otherwise, by less than the tolerance.
    """
    branch = request.empty_branch()
    branch.set_alpha(0.0)
    initialise(branch.features, branch.last, request.rng_seed)
    made = branch.state_dict()
    if {name: tensor.shape for name, tensor in made.items()} != {name: tensor.shape for name, tensor in tensors.items()} or not all(
        tensor.dtype == tensors[name].dtype and torch.allclose(tensor, tensors[name], rtol=1e-3, atol=1e-6) for name, tensor in made.items()
    ):
        raise KernelError(f"expected the kernel of {request.key} in {path.name}, got other weights than it is born with")


class KernelCompiler:
    """A thread that compiles kernels beside training into one folder, one after another, in the order of submission.

    It emits nothing and takes nothing from training. Its queue is bounded by the slots of the host: a slot has one request at a time.
    A kernel that was waited for is kept in its file alone; who waits again has it read again.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esper-kernels")
        self._requests: dict[str, KernelRequest] = {}
        self._kernels: dict[str, Future[Kernel]] = {}

    def submit(self, request: KernelRequest) -> None:
        """Compiles `request` soon; a request submitted before is not compiled again."""
        if request.key not in self._requests:
            self._requests[request.key] = request
            self._kernels[request.key] = self._thread.submit(compile_kernel, request, self._folder)

    def wait(self, key: str, timeout_s: float) -> Kernel:
        """The kernel of a submitted request; raises what compiling it raised, KernelError when it is not there in time."""
        if key not in self._requests:
            raise RuleError(f"expected the key of a submitted order, got {key!r}")
        kernel = self._kernels.pop(key, None) or self._thread.submit(compile_kernel, self._requests[key], self._folder)
        try:
            return kernel.result(timeout_s)
        except LateError as error:
            self._kernels[key] = kernel
            raise KernelError(f"expected kernel {key[:12]} within {timeout_s:g} s, it is still being compiled") from error

    def close(self) -> None:
        """Ends the thread after the request it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)
