"""What RunStarted says about code, packages, machine and data."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from esper.demo.tasks import TensorBatches
from esper.events.kinds.run import DataFingerprint
from esper.tolaria import environment
from esper.tolaria.determinism import seed_epoch
from tests.tolaria.worlds import CPU


def dataset(count: int = 1000, *, change: int | None = None) -> TensorDataset:
    inputs = torch.arange(count * 2, dtype=torch.float32).reshape(count, 2)
    if change is not None:
        inputs[change] += 1
    return TensorDataset(inputs, torch.arange(count))


def digest_of(data: object) -> str | None:
    return environment.data_fingerprint("train", data).digest


def test_data_is_named_with_its_length_and_class() -> None:
    said = environment.data_fingerprint("train", DataLoader(dataset(), batch_size=10))
    assert (said.name, said.length, said.kind) == ("train", 1000, "torch.utils.data.dataset.TensorDataset")


def test_a_loader_and_its_data_set_have_the_same_digest() -> None:
    assert digest_of(DataLoader(dataset(), batch_size=10, shuffle=True)) == digest_of(dataset()) != None  # noqa: E711 - all three


def test_the_digest_notices_another_sample() -> None:
    assert digest_of(dataset(change=0)) != digest_of(dataset())


@pytest.mark.parametrize("count", [1, 255, 256, 257, 511, 1000])
def test_at_most_256_samples_are_looked_at_and_the_first_twice(count: int) -> None:
    class Counting(list[int]):
        def __getitem__(self, index: object) -> int:  # type: ignore[override] # Only single samples are asked for.
            seen.append(index)
            return 1

    seen: list[object] = []
    assert digest_of(Counting([1] * count)) is not None
    assert 0 < len(seen) <= 256 + 8
    assert len(set(seen)) == max(len(seen) - 8, len(seen) // 2)


class Noisy(Dataset[Tensor]):
    """Samples with noise that `draw` gives."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index + self._draw()])


GLOBAL: list[Callable[[], float]] = [lambda: float(torch.rand(())), random.random, np.random.random]


@pytest.mark.parametrize("draw", GLOBAL)
def test_samples_with_random_noise_have_a_digest_that_leaves_the_random_state_alone(draw: Callable[[], float]) -> None:
    seed_epoch(0, 1)
    expected = draw()
    seed_epoch(0, 1)
    first = digest_of(DataLoader(Noisy(draw)))
    assert draw() == expected
    assert digest_of(DataLoader(Noisy(draw))) == first is not None


def test_samples_that_nobody_can_read_again_have_no_digest() -> None:
    assert digest_of(Noisy(random.SystemRandom().random)) is None


def test_batches_in_memory_are_fingerprinted_by_sample_not_by_batch() -> None:
    inputs, targets = dataset().tensors
    one, other = (TensorBatches(inputs, targets, size, shuffle=False) for size in (10, 100))
    assert digest_of(one) == digest_of(other)
    assert environment.data_fingerprint("train", one).length == 1000


def test_batches_in_memory_have_another_digest_when_a_target_changes() -> None:
    inputs, targets = dataset().tensors
    changed = targets.clone()
    changed[0] += 1
    assert digest_of(TensorBatches(inputs, changed, 10, shuffle=False)) != digest_of(TensorBatches(inputs, targets, 10, shuffle=False))


class Stream(IterableDataset[int]):
    """A stream that knows how long it is, and cannot be indexed."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))

    def __len__(self) -> int:
        return 3


UNINDEXED: list[tuple[object, int | None]] = [
    (iter([1, 2]), None),
    (Stream(), 3),
    ({"x": [1, 2]}, 1),
    ([object()], 1),
]


@pytest.mark.parametrize(("data", "length"), UNINDEXED)
def test_what_cannot_be_read_by_index_has_no_digest(data: object, length: int | None) -> None:
    said = environment.data_fingerprint("train", data)
    assert (said.length, said.digest) == (length, None)
    assert isinstance(said, DataFingerprint)


class Opened(Dataset[Tensor]):
    """Samples of a file that the first reader opens, as HDF5 is read: a handle must not be used by two processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.handle: int | None = None
        self.opener: int | None = None

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        if self.handle is None:
            self.handle, self.opener = os.open(self._path, os.O_RDONLY), os.getpid()
        return torch.tensor([os.pread(self.handle, 1, index)[0], self.opener == os.getpid()])


def test_a_file_that_reading_opens_is_not_shared_by_the_workers(tmp_path: Path) -> None:
    (tmp_path / "samples").write_bytes(bytes(range(8)))
    data = Opened(tmp_path / "samples")
    loader = DataLoader(data, batch_size=4, num_workers=2)
    assert digest_of(loader) is not None
    assert data.handle is None
    rows = torch.cat(list(loader)).tolist()
    assert rows == [[index, True] for index in range(8)]


def test_packages_are_those_installed_with_python_itself() -> None:
    found = environment.packages()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["python"].startswith("3.")
    assert "esper-training" in found


def test_the_machine_is_described() -> None:
    said = environment.hardware(CPU)
    assert (said.device, said.cores > 0, said.memory_bytes > 0, said.processor != "") == ("cpu", True, True, True)
