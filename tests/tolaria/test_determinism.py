"""Random streams without state, work that leaves no trace in them, and digests that notice everything."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from esper.tolaria.determinism import (
    determinism_settings,
    deterministic,
    digest_of_tensors,
    inexact,
    random_state_digest,
    seed_epoch,
    seed_own,
    total_norm,
    undisturbed,
    untouched,
)
from tests.tolaria.worlds import CPU


def drawn_in(rng_seed: int, epoch: int) -> list[float]:
    seed_epoch(rng_seed, epoch)
    return [*torch.rand(2).tolist(), random.random(), float(np.random.random())]


def test_an_epoch_draws_the_same_numbers_whatever_came_before() -> None:
    first = drawn_in(0, 3)
    torch.rand(17)
    random.random()
    np.random.random()
    assert drawn_in(0, 3) == first


def test_other_epochs_and_other_rng_seeds_draw_other_numbers() -> None:
    streams = [drawn_in(rng_seed, epoch) for rng_seed, epoch in ((0, 1), (0, 2), (1, 1), (1, 2), (12, 1), (1, 21))]
    for numbers in zip(*streams, strict=True):
        assert len(set(numbers)) == len(streams)


class Augmented:
    """A data set with a transform that draws from `generator`, behind a loader and a list of transforms."""

    def __init__(self, generator: object) -> None:
        self.transforms = [str, Jitter(generator)]

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _index: int) -> int:
        return 0


class Jitter:
    def __init__(self, generator: object) -> None:
        self._generator = generator


DRAWS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [  # A generator of any of the four classes, and a draw from it.
    (lambda: torch.Generator().manual_seed(7), lambda own: torch.rand(3, generator=own).tolist()),
    (lambda: np.random.default_rng(7), lambda own: own.random(3).tolist()),
    (lambda: np.random.Generator(np.random.MT19937(7)), lambda own: own.random(3).tolist()),
    (lambda: np.random.RandomState(7), lambda own: own.random(3).tolist()),
    (lambda: random.Random(7), lambda own: [own.random() for _ in range(3)]),
]


@pytest.mark.parametrize(("make", "draw"), DRAWS)
def test_a_generator_of_the_datas_own_begins_anew_with_every_epoch(make: Callable[[], Any], draw: Callable[[Any], object]) -> None:
    own = make()
    loader: DataLoader[int] = DataLoader(Augmented(own))  # type: ignore[arg-type] # It is never read.
    drawn = []
    for rng_seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        seed_own(loader, rng_seed, epoch)
        drawn.append(draw(own))
        draw(own)
    assert drawn[0] == drawn[3]
    assert len({str(numbers) for numbers in drawn}) == 3


def closing_over(own: "random.Random | Drawing") -> Callable[[], float]:
    return lambda: own.random() + 0.0


def defaulting(own: random.Random) -> Callable[..., float]:
    def draw(generator: random.Random = own) -> float:
        return generator.random()

    return draw


def keyword_only(own: random.Random) -> Callable[..., float]:
    def draw(*, generator: random.Random = own) -> float:
        return generator.random()

    return draw


def uniform_of(own: random.Random) -> float:
    return own.random()


OF_THE_MODULE = random.Random(3)


def naming() -> float:
    return OF_THE_MODULE.random()


class Drawing:
    def __init__(self, own: random.Random) -> None:
        self._own = own

    def random(self) -> float:
        return self._own.random()


HIDDEN: dict[str, Callable[[random.Random], Callable[[], float]]] = {
    "a partial's argument": lambda own: partial(uniform_of, own),
    "a partial's keyword": lambda own: partial(uniform_of, own=own),
    "a partial of a closure": lambda own: partial(closing_over(own)),
    "a closure": closing_over,
    "a closure's closure": lambda own: closing_over(Drawing(own)),
    "a default": defaulting,
    "a keyword's default": keyword_only,
    "a bound method": lambda own: Drawing(own).random,
    "a bound method of its own": lambda own: own.random,
    "a global of its module": lambda _own: naming,
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_generator_that_a_function_of_the_data_holds_begins_anew_with_every_epoch(how: str) -> None:
    draw = HIDDEN[how](random.Random(7))
    drawn = []
    for epoch in (1, 2, 1):
        seed_own(DataLoader(Augmented(draw)), 0, epoch)  # type: ignore[arg-type] # It is never read.
        drawn.append([draw(), draw()])
    assert drawn[0] == drawn[2] != drawn[1]


class Opening:
    """Opens things when it is read: an attribute, an item of a list, one of a map, one that was not there, one that was full."""

    def __init__(self) -> None:
        self.file: object = None
        self.pool: list[object] = []
        self.by_worker: dict[int, object] = {}
        self.full = {"kept": "as it was"}
        self.inner = Jitter(None)

    def read(self) -> None:
        self.file = self.pool = self.pool  # Another object of the same value.
        self.pool.append("open")
        self.by_worker[0] = "open"
        self.full.clear()
        self.inner._generator = "open"
        self.late = "open"


def test_what_is_read_untouched_holds_what_it_held() -> None:
    data = Opening()
    before = dict(vars(data))
    with untouched(DataLoader(data)):  # type: ignore[arg-type] # It is never read by the loader.
        data.read()
    assert vars(data) == before
    assert (data.file, data.pool, data.by_worker, data.full) == (None, [], {}, {"kept": "as it was"})
    assert data.inner._generator is None


class Many(Dataset[Tensor]):
    """A data set with a generator for each of 65 transforms."""

    def __init__(self) -> None:
        self.transforms = [torch.Generator() for _ in range(65)]

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(1, generator=self.transforms[index])

    def __len__(self) -> int:
        return 65


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda: DataLoader(Many(), num_workers=1, persistent_workers=True),
            "the workers of a DataLoader with persistent_workers=True keep",
        ),
        (lambda: [partial(next, DataLoader(Many(), num_workers=1, persistent_workers=True))], "the workers of a DataLoader with persist"),
        (lambda: DataLoader(Many()), "a list of 65 holds generators, and those of more than 64 are not seeded anew"),
        (lambda: iter([1]), "a list_iterator cannot begin anew with every epoch: this run cannot be resumed"),
    ],
)
def test_data_that_a_resume_would_not_see_again_are_told(make: Callable[[], object], reason: str) -> None:
    assert (inexact(make()) or "").startswith(reason)


def test_data_that_begin_anew_are_not_told() -> None:
    assert inexact(DataLoader(Augmented(torch.Generator()), num_workers=1)) is None  # type: ignore[arg-type] # It is never read.
    assert inexact(list(range(100))) is None


def test_two_generators_of_the_data_draw_other_numbers() -> None:
    one, other = torch.Generator(), torch.Generator()
    seed_own(DataLoader(Augmented(one), generator=other), 0, 1)  # type: ignore[arg-type] # It is never read.
    assert torch.rand(1, generator=one) != torch.rand(1, generator=other)


def test_what_is_drawn_undisturbed_leaves_the_stream_where_it_was() -> None:
    seed_epoch(0, 1)
    expected = [*torch.rand(2).tolist(), random.random(), np.random.random()]
    seed_epoch(0, 1)
    with undisturbed(CPU):
        torch.manual_seed(99)
        torch.rand(100)
        random.random()
        np.random.random()
    assert [*torch.rand(2).tolist(), random.random(), np.random.random()] == expected


def _burst() -> None:
    with undisturbed(CPU):
        torch.rand(1)
        raise ZeroDivisionError


def test_an_exception_inside_leaves_the_stream_where_it_was() -> None:
    before = random_state_digest(CPU)
    with pytest.raises(ZeroDivisionError):
        _burst()
    assert random_state_digest(CPU) == before


def test_the_digest_of_the_random_state_changes_with_every_draw() -> None:
    before = random_state_digest(CPU)
    torch.rand(1)
    assert random_state_digest(CPU) != before


BASE = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3, 4]])}
OTHERS: dict[str, dict[str, Tensor]] = {
    "a value": {**BASE, "a": torch.tensor([1.0, 2.0000002])},
    "the sign of a zero": {"a": torch.tensor([0.0, 2.0]), "b": BASE["b"]},
    "a name": {"A": BASE["a"], "b": BASE["b"]},
    "a shape": {**BASE, "b": torch.tensor([3, 4])},
    "a dtype": {**BASE, "a": torch.tensor([1.0, 2.0]).view(torch.int32)},
    "one more": {**BASE, "c": torch.zeros(0)},
    "one less": {"a": BASE["a"]},
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_digest_of_tensors_notices(what: str) -> None:
    assert digest_of_tensors(OTHERS[what]) != digest_of_tensors(BASE)


def test_the_digest_of_tensors_notices_the_sign_of_a_zero() -> None:
    assert digest_of_tensors({"a": torch.tensor([0.0])}) != digest_of_tensors({"a": torch.tensor([-0.0])})


def test_the_digest_of_tensors_depends_on_neither_order_nor_layout() -> None:
    turned = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).t()
    one = digest_of_tensors({"a": turned, "b": torch.ones(2, dtype=torch.bfloat16)})
    assert digest_of_tensors({"b": torch.ones(2, dtype=torch.bfloat16), "a": turned.contiguous()}) == one


def test_the_digest_of_tensors_notices_what_is_beside_them() -> None:
    assert digest_of_tensors(BASE, b"lr 1") != digest_of_tensors(BASE, b"lr 2")


def test_the_total_norm_is_over_all_gradients_there_are() -> None:
    one, two, without = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))
    one.grad, two.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert float(total_norm([one, without, two])) == pytest.approx(5.0)


def test_without_gradients_the_total_norm_is_zero() -> None:
    assert float(total_norm([nn.Parameter(torch.zeros(2))])) == 0.0


def test_determinism_is_described_as_torch_has_it() -> None:
    with deterministic(CPU, threads=2):
        said = determinism_settings("parameters")
    assert (said.threads, said.deterministic_algorithms, said.digest) == (2, True, "parameters")
    assert said.variables["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_determinism_that_is_switched_off_is_off_and_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic(CPU, threads=1, enabled=False):
        assert torch.backends.cudnn.benchmark
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        assert not determinism_settings("full").deterministic_algorithms


def test_what_the_environment_says_later_is_not_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    before = determinism_settings("full")
    for name in ("OMP_NUM_THREADS", "MKL_CBWR", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "7")
    assert determinism_settings("full") == before


IN_FORCE: list[tuple[str, str, str | None]] = [  # The environment's MKL_CBWR, what comes before Esper is imported, MKL's code path.
    ("COMPATIBLE", "pass", "COMPATIBLE"),
    ("COMPATIBLE", "import torch; torch.ones(9, 9) @ torch.ones(9, 9); os.environ['MKL_CBWR'] = 'AVX2'", "COMPATIBLE"),
    ("", "import torch; torch.ones(9, 9) @ torch.ones(9, 9)", None),
]


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch has no MKL here")
@pytest.mark.parametrize(("given", "first", "in_force"), IN_FORCE)
def test_the_code_path_is_the_one_that_mkl_took(given: str, first: str, in_force: str | None) -> None:
    code = f"import os; {first}\nfrom esper.tolaria.determinism import determinism_settings; print(determinism_settings('full').mkl_cbwr)"
    variables = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"} | ({"MKL_CBWR": given} if given else {})
    done = subprocess.run((sys.executable, "-c", code), env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == f"{in_force}\n"


def _burst_within() -> None:
    with deterministic(CPU, threads=3):
        seed_epoch(0, 1)
        raise ZeroDivisionError


@pytest.mark.parametrize("warn_only", [True, False])
def test_torch_is_afterwards_as_it_was_whatever_happens_within(warn_only: bool) -> None:
    torch.use_deterministic_algorithms(warn_only, warn_only=warn_only)
    before = (torch.get_num_threads(), random_state_digest(CPU), random.getstate())
    with pytest.raises(ZeroDivisionError):
        _burst_within()
    assert (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()) == (warn_only, warn_only)
    assert (torch.get_num_threads(), random_state_digest(CPU), random.getstate()) == before
    torch.use_deterministic_algorithms(False)


def test_cublas_is_told_once_to_be_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic(CPU, threads=1):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
