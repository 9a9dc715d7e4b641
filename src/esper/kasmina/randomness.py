"""Randomness without state: every stream is derived by a hash from (rng_seed, purpose, ...), and isolated work leaves no trace.

The stream of a seed is named by (rng_seed, "seed", site, seed, life, step): made again from the same, it is the same, whatever else ran.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from esper.errors import SettingsError


def derive(rng_seed: int, purpose: str, *parts: int | str) -> int:
    """A 64-bit number for the random stream of `purpose`: sha256 over the length-prefixed parts, so that no two lists of parts meet."""
    digest = hashlib.sha256()
    for part in (rng_seed, purpose, *parts):
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest()[:8], "big")


@contextmanager
def forked(device: torch.device, seed: int) -> Iterator[None]:
    """Within, `device`'s default generator runs from `seed`; afterwards it stands where it stood before.

    Only that one generator is touched: `torch.manual_seed` would reseed every other device as well.
    """
    if device.type == "cpu":
        generator = torch.default_generator
    elif device.type == "cuda":
        index: int | None = device.index
        generator = torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]
    else:
        raise SettingsError(f"expected a host on cpu or cuda, got one on {device.type}: its random state cannot be kept apart")
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
