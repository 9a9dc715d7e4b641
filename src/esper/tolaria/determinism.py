"""Same settings, same machine, same numbers: threads, deterministic algorithms, random streams without state, digests of the state.

Every random stream is derived from (rng_seed, purpose, ...) by a hash, so nothing but the epoch's number has to be restored.
"""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from esper.events.kinds.run import Determinism
from esper.kasmina.randomness import derive

# MKL picks code paths by alignment and CPU unless told otherwise; it reads this when torch loads it, hence the console entry
# point and the module `esper` set it before torch is imported. AVX2,STRICT is the newest path that is bitwise reproducible.
MKL_VARIABLE = "MKL_CBWR"


def make_deterministic(threads: int) -> None:
    """Sets torch to deterministic algorithms and `threads` threads (with BatchNorm, two threads give other bits than one).

    On CUDA, cuBLAS needs CUBLAS_WORKSPACE_CONFIG before its first call; it is set here when absent.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def described(digest: str) -> Determinism:
    """What RunStarted says about determinism, read back from torch."""
    return Determinism.model_validate(
        {
            "threads": torch.get_num_threads(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "mkl_cbwr": os.environ.get(MKL_VARIABLE),
            "digest": digest,
        }
    )


def seed_epoch(rng_seed: int, epoch: int) -> None:
    """Starts the host's random streams of `epoch`: data order, dropout, augmentation all draw from them.

    Python's and numpy's as well: a data set's transforms use whichever their author knew, and a resumed run must draw the same.
    """
    torch.manual_seed(derive(rng_seed, "epoch", epoch))
    random.seed(derive(rng_seed, "epoch", epoch, "python"))
    np.random.seed(derive(rng_seed, "epoch", epoch, "numpy") % 2**32)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside leaves the host's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


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
