"""Kernels: a key names one content, and a file that is not whole is never used."""

import gc
import os
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from esper.errors import DataError, RuleError
from esper.kasmina import compiler as compiler_module
from esper.kasmina.blueprints import Blueprint, Layer
from esper.kasmina.branch import Branch
from esper.kasmina.compiler import (
    CHECKS,
    Kernel,
    KernelCompiler,
    KernelError,
    KernelRequest,
    check,
    compile_kernel,
    parameter_count,
)

LINEAR = nn.Linear(20, 12, device="meta")
CONV = nn.Conv2d(3, 6, 3, padding=1, device="meta")


def order(name: str = "mlp:24", layer: Layer = LINEAR, rng_seed: int = 2**63 + 5) -> KernelRequest:
    return KernelRequest(Blueprint.parse(name).spec("site", layer), rng_seed)


def weights(branch: Branch) -> list[torch.Tensor]:
    return list(branch.state_dict().values())


def test_a_kernel_is_the_same_wherever_it_is_made(tmp_path: Path) -> None:
    one, other = (compile_kernel(order(), tmp_path / name) for name in ("one", "other"))
    assert one.digest == other.digest
    assert one.characterization.key == other.characterization.key
    assert all(torch.equal(a, b) for a, b in zip(weights(one.branch()), weights(other.branch()), strict=True))


@pytest.mark.parametrize(
    "other", [order("mlp:25"), order(rng_seed=1), replace(order(), dtype="float64")], ids=["spec", "rng seed", "dtype"]
)
def test_spec_rng_seed_and_dtype_each_change_the_key(other: KernelRequest) -> None:
    assert other.key != order().key


def test_a_second_compilation_comes_from_the_file(tmp_path: Path) -> None:
    made = compile_kernel(order(), tmp_path)
    found = compile_kernel(order(), tmp_path)
    assert (made.from_cache, found.from_cache) == (False, True)
    assert replace(found, from_cache=False, duration_ms=made.duration_ms) == made
    assert all(torch.equal(a, b) for a, b in zip(weights(made.branch()), weights(found.branch()), strict=True))


def test_branches_of_a_kernel_share_no_memory(tmp_path: Path) -> None:
    kernel = compile_kernel(order(), tmp_path)
    with torch.no_grad():
        kernel.branch().last.weight.fill_(1.0)
    assert not kernel.branch().last.weight.any()


def file_of(kernel: Kernel, folder: Path) -> Path:
    return folder / f"{kernel.request.key}.safetensors"


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_swap(path: Path) -> None:
    other = compile_kernel(order(rng_seed=1), path.parent)
    path.write_bytes(file_of(other, path.parent).read_bytes())


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_empty, damage_swap], ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_made_again(damage: object, tmp_path: Path) -> None:
    made = compile_kernel(order(), tmp_path)
    assert callable(damage)
    damage(file_of(made, tmp_path))
    again = compile_kernel(order(), tmp_path)
    assert (again.from_cache, again.digest) == (False, made.digest)
    assert compile_kernel(order(), tmp_path).from_cache


def test_a_forged_kernel_with_a_digest_of_its_own_is_made_again(tmp_path: Path) -> None:
    made = compile_kernel(order(), tmp_path)
    forged = {name: tensor.clone() for name, tensor in made.tensors.items()}
    forged["last.weight"].fill_(0.01)
    with safe_open(file_of(made, tmp_path), framework="pt") as file:
        metadata = file.metadata() | {"digest": compiler_module._digest(made.request, forged)}
    save_file(forged, file_of(made, tmp_path), metadata)
    again = compile_kernel(order(), tmp_path)
    assert (again.from_cache, again.digest) == (False, made.digest)


@pytest.mark.parametrize(("failing", "kept"), [(1, False), (2, True)], ids=["lost", "done but reported lost"])
def test_a_write_that_fails_leaves_a_whole_kernel_or_none(
    failing: int, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1, 10))

    def full(_descriptor: int) -> None:
        if next(calls) == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KernelError, match="No space left"):
        compile_kernel(order(), tmp_path)
    assert len(list(tmp_path.iterdir())) == int(kept)
    assert compile_kernel(order(), tmp_path).from_cache == kept


@pytest.mark.parametrize(
    ("name", "layer", "parameters", "flops"),
    [
        ("mlp:24", LINEAR, 20 * 24 + 24 + 24 * 12 + 12, 2 * (20 * 24 + 24 * 12)),
        ("lowrank:8", LINEAR, 20 * 8 + 8 * 12 + 12, 2 * (20 * 8 + 8 * 12)),
        ("signal:4", LINEAR, 5 * 4 + 4 + 4 * 4 * 5 + 4 + 20 * 12 + 12, 2 * (20 * 4 * 5 + 10 * 4 * 4 * 5 + 20 * 12)),
        ("conv:8", CONV, 3 * 8 * 9 + 8 + 16 + 8 * 6 + 6, 2 * 64 * (8 * 27 + 6 * 8)),
        ("lowrank:8", CONV, 3 * 8 * 9 + 8 * 6 + 6, 2 * 64 * (8 * 27 + 6 * 8)),
    ],
)
def test_a_kernel_says_what_it_costs(name: str, layer: Layer, parameters: int, flops: int, tmp_path: Path) -> None:
    found = compile_kernel(order(name, layer), tmp_path).characterization
    assert (found.parameters, found.flops, found.memory_bytes, found.checks) == (parameters, flops, 4 * parameters, CHECKS)
    assert found.latency_ms > 0
    assert parameter_count(order(name, layer).spec) == parameters


def ready_branch() -> Branch:
    branch = order().empty_branch()
    for parameter in branch.parameters():
        torch.nn.init.zeros_(parameter)
    return branch


def test_a_delta_at_birth_fails_the_checks() -> None:
    branch = ready_branch()
    torch.nn.init.ones_(branch.last.weight)
    torch.nn.init.ones_(branch.features.get_submodule("0").get_parameter("bias"))
    with pytest.raises(KernelError, match="zero delta at birth"):
        check(branch, order())


def test_a_wrong_shape_fails_the_checks() -> None:
    with pytest.raises(KernelError, match=r"expected an output of \(1, 9\), got \(1, 12\)"):
        check(ready_branch(), order(layer=nn.Linear(20, 9, device="meta")))


def test_a_value_that_is_not_finite_fails_the_checks() -> None:
    branch = ready_branch()
    torch.nn.init.constant_(branch.features.get_submodule("0").get_parameter("weight"), float("inf"))
    with pytest.raises(KernelError, match=r"finite|zero delta"):
        check(branch, order())


def test_a_forward_that_varies_fails_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    branch, calls = ready_branch(), iter(range(100))

    def varying(_x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(1, 24), torch.full((1, 12), -0.0 if next(calls) == 0 else float("nan"))

    monkeypatch.setattr(branch, "body", varying)
    with pytest.raises(KernelError, match="two equal forwards"):
        check(branch, order())


def test_compiling_draws_nothing_from_the_shared_generator(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    compile_kernel(order("mlp:24:dropout=0.5"), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_compiler_hands_over_what_it_was_given(tmp_path: Path) -> None:
    compiler = KernelCompiler(tmp_path)
    for width in (3, 4, 5):
        compiler.submit(order(f"mlp:{width}"))
    assert [compiler.wait(order(f"mlp:{width}").key, 30).request for width in (5, 4, 3)] == [order(f"mlp:{width}") for width in (5, 4, 3)]
    compiler.close()


def test_a_compiler_keeps_no_kernel_that_was_waited_for_and_has_it_again(tmp_path: Path) -> None:
    compiler = KernelCompiler(tmp_path)
    compiler.submit(order())
    first = compiler.wait(order().key, 30)
    kept, first = weakref.ref(first.tensors["last.weight"]), replace(first, tensors={})
    gc.collect()
    assert kept() is None
    again = compiler.wait(order().key, 30)
    assert (again.from_cache, again.digest) == (True, first.digest)
    compiler.close()


def test_a_compiler_raises_what_compiling_raised(tmp_path: Path) -> None:
    compiler = KernelCompiler(tmp_path)
    broken = KernelRequest("{}", 0)
    compiler.submit(broken)
    with pytest.raises(DataError, match="the spec of a blueprint"):
        compiler.wait(broken.key, 30)
    compiler.close()


def test_a_kernel_that_is_late_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def slow(asked: KernelRequest, folder: Path) -> compiler_module.Kernel:
        released.wait(30)
        return compile_kernel(asked, folder)

    monkeypatch.setattr(compiler_module, "compile_kernel", slow)
    compiler = KernelCompiler(tmp_path)
    compiler.submit(order())
    with pytest.raises(KernelError, match="still being compiled"):
        compiler.wait(order().key, 0.01)
    released.set()
    assert compiler.wait(order().key, 30).request == order()
    compiler.close()


def test_waiting_for_an_order_that_was_never_given_is_a_broken_rule(tmp_path: Path) -> None:
    compiler = KernelCompiler(tmp_path)
    with pytest.raises(RuleError, match="a submitted order"):
        compiler.wait("0" * 64, 1)
    compiler.close()


def test_no_kernel_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "kernels").symlink_to(tmp_path / "users")
    with pytest.raises(KernelError, match="got a link"):
        compile_kernel(order(), tmp_path / "kernels")
    assert not list((tmp_path / "users").iterdir())
