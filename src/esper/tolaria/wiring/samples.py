"""Digests of samples: which of one data set stand in another."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_MOST = 200_000
_WORDS = 8192
_Hashes = npt.NDArray[np.uint64]
_FACTORS: _Hashes = np.random.Generator(np.random.PCG64(0)).integers(1, 1 << 63, _WORDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


class SampleDigests:
    """A digest of each sample that was added, up to 200,000; of batches in main memory alone."""

    def __init__(self) -> None:
        self._parts: list[_Hashes] = []
        self.count = 0

    def add(self, batch: object) -> None:
        """Adds the samples of a batch of inputs; what is no tensor in main memory is left out."""
        if isinstance(batch, Tensor) and batch.dim() and len(batch) and batch.device.type == "cpu" and self.count < _MOST:
            self._parts.append(_digests(batch.detach()))
            self.count += len(batch)

    def all(self) -> _Hashes:
        """The digests, in order."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.uint64)

    def repeated_share(self) -> float:
        """The share of samples that stand in here more than once."""
        return 1.0 - len(np.unique(self.all())) / self.count if self.count else 0.0

    def found_in(self, other: "SampleDigests") -> int:
        """The number of these samples that `other` has too."""
        return int(np.isin(self.all(), other.all()).sum())


def _digests(batch: Tensor) -> _Hashes:
    """A number of 64 bits for each sample, of its first 64 KiB: a sum of its words by random odd factors."""
    data = batch.reshape(len(batch), -1).contiguous().view(torch.uint8).numpy()[:, : 8 * _WORDS]
    padded = np.pad(data, ((0, 0), (0, -data.shape[1] % 8))) if data.shape[1] % 8 else data
    words = np.ascontiguousarray(padded).view(np.uint64)
    mixed: _Hashes = ((words ^ (words >> np.uint64(32))) * _FACTORS[: words.shape[1]]).sum(1, dtype=np.uint64)
    return mixed
