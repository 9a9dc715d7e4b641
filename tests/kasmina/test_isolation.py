"""A seed in TRAINING changes nothing of its host's path: parameters, buffers, optimizer state and random state, after each of 40 steps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from esper.events.kinds.control import Command
from esper.events.kinds.lifecycle import Stage
from esper.kasmina import compiler as compiler_module
from esper.kasmina import host as host_module
from esper.kasmina.compiler import KernelCompiler, compile_kernel
from esper.kasmina.host import Host
from tests.kasmina.training import MODELS, Loop, first_difference, host_of, into_training, table_of

pytestmark = pytest.mark.whole  # Forty steps, many times over.

STEPS = 40
BORN = 8  # Seeds germinate after some steps, so that birth itself is on the path.
SEEDS = {
    "linear": (("0", "mlp:6:dropout=0.3"), ("4", "lowrank:3"), ("0", "signal:4")),
    "conv": (("0", "conv:4:dropout=0.3"), ("3", "lowrank:3")),
}
OPTIONS: dict[str, dict[str, object]] = {
    "plain": {},
    "accumulation": {"micro_batches": 2},
    "autocast": {"autocast": True},
    "scaler": {"autocast": True, "scaled": True, "micro_batches": 2},
}
NAMES = ("mlp:6:dropout=0.3", "lowrank:3", "signal:4", "conv:4:dropout=0.3")


def alone(kind: str, **options: object) -> list[str]:
    return Loop(kind, MODELS[kind](), None, **options).run(0, STEPS)  # type: ignore[arg-type] # Options of Loop.


def with_seeds(kind: str, path: Path, *, spoil: Callable[[Host, int], None] | None = None, **options: object) -> tuple[list[str], Host]:
    model = MODELS[kind]()
    host = host_of(model, blueprints=NAMES)
    loop = Loop(kind, model, host, **options)  # type: ignore[arg-type] # Options of Loop.
    digests = loop.run(0, BORN)
    for seed, (site, blueprint) in enumerate(SEEDS[kind]):
        into_training(host, site, seed, blueprint, compiled=lambda order: compile_kernel(order, path))  # Compiling may disturb it too.
    for step in range(BORN, STEPS):
        if spoil is not None:
            spoil(host, step)
        digests.append(loop.step(step))
    return digests, host


def learned(host: Host) -> bool:
    tensors, _ = host.state()
    return all(bool(tensor.any()) for name, tensor in tensors.items() if name.endswith("last.weight"))


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_training_seeds_do_not_change_the_hosts_path(kind: str, options: dict[str, object], tmp_path: Path) -> None:
    digests, host = with_seeds(kind, tmp_path, **options)  # type: ignore[arg-type] # Options of Loop.
    assert first_difference(alone(kind, **options), digests) is None
    assert learned(host)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_seed_that_becomes_nan_does_not_change_the_hosts_path(kind: str, tmp_path: Path) -> None:
    def spoil(host: Host, step: int) -> None:
        if step == 20:
            tensors, _ = host.state()
            tensors[f"{SEEDS[kind][0][0]}/0/last.bias"].fill_(float("nan"))

    digests, host = with_seeds(kind, tmp_path, spoil=spoil)
    assert first_difference(alone(kind), digests) is None
    assert host.seeds[SEEDS[kind][0][0], 0].recovering
    assert host.seeds[SEEDS[kind][0][0], 0].errors == 1
    assert not host.seeds[SEEDS[kind][1][0], 1].recovering


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_rejected_seed_leaves_no_trace(kind: str, tmp_path: Path) -> None:
    def spoil(host: Host, step: int) -> None:
        if step == 30:
            for seed, (site, _) in enumerate(SEEDS[kind]):
                host.apply(Command.CANCEL if seed else Command.CULL, site, seed, epoch=4)

    digests, host = with_seeds(kind, tmp_path, spoil=spoil)
    assert first_difference(alone(kind), digests) is None
    assert host.state()[0] == {}
    assert list(host.model.state_dict()) == list(MODELS[kind]().state_dict())


def test_shadow_validation_does_not_change_the_hosts_path(tmp_path: Path) -> None:
    def spoil(host: Host, step: int) -> None:
        if step % 10 == 0:
            host.model.eval()
            with torch.no_grad(), host.override_alpha({("0", 0): 0.5}):
                host.model(torch.ones(4, 20))
            host.model.train()

    digests, _ = with_seeds("linear", tmp_path, spoil=spoil)
    assert first_difference(alone("linear"), digests) is None


def test_compiling_kernels_beside_training_does_not_change_the_hosts_path(tmp_path: Path) -> None:
    compiler = KernelCompiler(tmp_path)
    model = MODELS["linear"]()
    host = host_of(model, blueprints=NAMES, slots=STEPS)
    loop = Loop("linear", model, host)
    digests, orders = [], []
    for step in range(STEPS):
        orders.append(host.germinate("0", step, life=step, blueprint=NAMES[step % 3], lr=1e-3))
        compiler.submit(orders[-1])
        digests.append(loop.step(step))
    assert first_difference(alone("linear"), digests) is None
    assert [compiler.wait(order.key, 60).request for order in orders] == orders
    compiler.close()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # The compiler looks at it at any break.
def test_training_seeds_do_not_change_the_path_of_a_compiled_host() -> None:
    def path(seeds: bool) -> list[str]:
        model = MODELS["linear"]()
        host = host_of(model)
        loop = Loop("linear", model, host)
        loop.model = torch.compile(model, backend="aot_eager")  # type: ignore[assignment] # It keeps the module's interface.
        digests = loop.run(0, 3)
        if seeds:
            into_training(host, "0", 0, "mlp:24")
        digests += loop.run(3, 8)
        assert not seeds or learned(host)
        torch.compiler.reset()
        return digests

    assert first_difference(path(False), path(True)) is None


def test_a_joint_clip_of_host_and_seeds_is_seen(tmp_path: Path) -> None:
    """The fault that holding bodies outside the host's modules prevents: a seed's gradient in the host's norm."""

    def joint(loop: Loop) -> list[nn.Parameter]:
        assert loop.host is not None
        bodies = [p for optimizer in loop.host.optimizers().values() for group in optimizer.param_groups for p in group["params"]]
        for parameter in bodies:
            parameter.grad = torch.ones_like(parameter)
        return [*loop.own, *bodies]

    digests, _ = with_seeds("linear", tmp_path, clipped=joint)
    assert first_difference(alone("linear"), digests) == BORN


def test_dropout_of_a_seed_from_the_shared_generator_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def shared(_device: torch.device, _seed: int) -> Iterator[None]:
        yield

    monkeypatch.setattr(host_module, "forked", shared)
    digests, _ = with_seeds("linear", tmp_path)
    assert first_difference(alone("linear"), digests) == BORN


def test_initialisation_from_the_shared_generator_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shared(features: nn.Sequential, last: nn.Linear | nn.Conv2d, _seed: int) -> None:
        for layer in features:
            if isinstance(layer, nn.Linear | nn.Conv1d):
                layer.reset_parameters()
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)

    monkeypatch.setattr(compiler_module, "initialise", shared)
    digests, _ = with_seeds("linear", tmp_path)
    assert first_difference(alone("linear"), digests) == BORN


def test_the_same_run_twice_gives_the_same_seeds(tmp_path: Path) -> None:
    _, one = with_seeds("linear", tmp_path / "one")
    _, other = with_seeds("linear", tmp_path / "other")
    assert table_of(one) == table_of(other)
    assert all(torch.equal(tensor, other.state()[0][name]) for name, tensor in one.state()[0].items())


def test_what_a_seed_learns_does_not_depend_on_the_seeds_beside_it(tmp_path: Path) -> None:
    _, together = with_seeds("linear", tmp_path / "one")
    model = MODELS["linear"]()
    host = host_of(model, blueprints=NAMES)
    loop = Loop("linear", model, host)
    loop.run(0, BORN)
    into_training(host, "0", 0, "mlp:6:dropout=0.3")
    loop.run(BORN, STEPS)
    assert torch.equal(host.state()[0]["0/0/last.weight"], together.state()[0]["0/0/last.weight"])


def test_seeds_in_training_are_in_none_of_the_hosts_lists(tmp_path: Path) -> None:
    _, host = with_seeds("linear", tmp_path)
    assert {seed.stage for seed in host.seeds.values() if seed.life is not None} == {Stage.TRAINING}
    assert sum(parameter.numel() for parameter in host.model.parameters()) == host.parameters()
    assert list(host.model.state_dict()) == list(MODELS["linear"]().state_dict())
    assert [id(p) for p in host.host_parameters()] == [id(p) for p in host.model.parameters()]
