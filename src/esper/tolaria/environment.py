"""Code, packages, hardware, account and data of a run: the parts of RunStarted that are read off the machine."""

import hashlib
import math
import os
import platform
from collections.abc import Mapping, Sequence, Sized
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from esper.events.kinds.run import DataFingerprint, Hardware
from esper.tolaria.determinism import seed_epoch, seed_own, undisturbed, untouched

_PACKAGES = ("esper-training", "torch", "numpy", "safetensors", "pydantic", "apsw", "scikit-learn")
_SAMPLES = 256
_READ_TWICE = 8


@cache
def packages() -> Mapping[str, str]:
    """The versions of what the numbers depend on, with Python's own."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device) -> Hardware:
    """The machine. Without a driver `gpus` is empty."""
    gpus = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    return Hardware(
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        operating_system=platform.platform(),
        device=str(device),
        gpus=gpus,
    )


def account() -> str | None:
    """The operating system's account that this process runs under; None where the system does not say."""
    # Not getpass.getuser: anybody may set the variables that it looks at.
    try:
        return str(psutil.Process().username())
    except psutil.Error:
        return None


def data_fingerprint(name: str, data: object) -> DataFingerprint:
    """Length, class, and sha256 over at most 256 strided samples of a data set; no digest where it cannot be indexed.

    Looks at `data.dataset` of a loader, or at `inputs` and `targets` of batches in memory, and leaves all of it as it was. What samples
    draw at random comes from generators that begin here with the same seed each time, and whose state is put back; those that vary all the
    same have no digest.
    """
    with untouched(data):
        return _fingerprint(name, getattr(data, "dataset", data))


def _fingerprint(name: str, source: Any) -> DataFingerprint:  # Any: a data set of any kind; what is asked of it is looked for first.
    length, digest = len(source) if isinstance(source, Sized) else None, None
    inputs, targets = getattr(source, "inputs", None), getattr(source, "targets", None)
    if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
        length = len(inputs)
        digest = _digest([(inputs[index], targets[index]) for index in _strided(length)])
    elif length is not None and hasattr(source, "__getitem__"):
        with suppress(LookupError, TypeError, NotImplementedError):  # A mapping; torch's data sets for iteration alone.
            digest = _digest_of_samples(source, _strided(length))
    return DataFingerprint(name=name, length=length, kind=f"{type(source).__module__}.{type(source).__qualname__}", digest=digest)


def _digest_of_samples(source: Any, indexes: range) -> str | None:  # Any: it has __getitem__, which takes an index or raises.
    def read(chosen: range) -> list[object]:
        with undisturbed(torch.device("cpu")):
            seed_epoch(0, 0)
            seed_own(source, 0, 0)
            return [source[index] for index in chosen]

    samples, again = read(indexes), read(indexes[:_READ_TWICE])
    return _digest(samples) if _digest(samples[:_READ_TWICE]) == _digest(again) else None


def _strided(length: int) -> range:
    return range(0, length, max(1, math.ceil(length / _SAMPLES)))


def _digest(samples: Sequence[object]) -> str | None:
    digest = hashlib.sha256()
    for sample in samples:
        for part in sample if isinstance(sample, tuple | list) else (sample,):
            if isinstance(part, Tensor):
                flat = part.detach().cpu().contiguous()
                digest.update(f"{flat.dtype}{tuple(flat.shape)}".encode() + flat.reshape(-1).view(torch.uint8).numpy().tobytes())
            elif isinstance(part, int | float | str | bytes | bool):
                digest.update(repr(part).encode())
            else:
                return None
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or "unknown")
