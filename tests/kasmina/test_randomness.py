"""Random streams are named by what they are for, and isolated work leaves no trace."""

import pytest
import torch

from esper.errors import SettingsError
from esper.kasmina.randomness import derive, forked

CPU = torch.device("cpu")


def test_a_stream_is_the_same_in_every_process() -> None:
    assert derive(0, "seed", "layer.0", 2, 31) == 0x5BF5CB7E443143B7


def test_every_part_names_another_stream() -> None:
    named = [
        (0, "seed"),
        (1, "seed"),
        (0, "order"),
        (0, "seed", 1),
        (0, "seed", "1"),
        (0, "seed", "a", "b"),
        (0, "seed", "ab"),
    ]
    assert len({derive(*parts) for parts in named}) == len(named)  # type: ignore[arg-type] # rng seed, purpose, parts.


def test_forked_work_draws_from_its_own_stream_and_leaves_the_shared_one() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with forked(CPU, 9):
        one = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    with forked(CPU, 9):
        assert torch.equal(torch.rand(5), one)


def test_forked_work_that_fails_leaves_the_shared_stream() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), forked(CPU, 9):
        torch.rand(5).mul_(1 / 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_whose_random_state_is_unknown_is_refused() -> None:
    with pytest.raises(SettingsError, match="cpu or cuda, got one on meta"), forked(torch.device("meta"), 9):
        pass
