"""A grown model as two files that need only torch: put together again, it is the same, bit for bit."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from esper.errors import DataError
from esper.events.kinds.control import Command
from esper.kasmina.host import Host
from esper.kasmina.plain_model import save_grown
from tests.kasmina.training import INPUT, MODELS, Loop, batch, host_of, into

WHOLE = (Command.GRAFT, Command.STABILIZE, Command.EVALUATE, Command.FINE_TUNE, Command.FOSSILIZE)
BODIES = {
    "linear": (("0", "mlp:5:dropout=0.1"), ("0", "signal:3:dropout=0.1"), ("4", "lowrank:8")),
    "conv": (("0", "conv:8:dropout=0.1"), ("0", "lowrank:8"), ("3", "conv:8")),
}


def grown(kind: str) -> Host:
    """A trained host with three seeds of its own, one of them half grafted, and one that is not in it yet."""
    host = host_of(MODELS[kind](), blueprints=tuple({name for _, name in BODIES[kind]}))
    for seed, (site, name) in enumerate(BODIES[kind]):
        into(host, site, seed, name, *(WHOLE if seed else WHOLE[:1]), ramp_steps=6)
    into(host, BODIES[kind][2][0], 0, "lowrank:8")
    Loop(kind, host.model, host).run(0, 3)
    return host


class Saved(NamedTuple):
    """A grown host as it was saved, and where. Tests only read both."""

    kind: str
    host: Host
    folder: Path


@pytest.fixture(scope="module", params=BODIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Every kind of host, grown and saved once."""
    kind: str = request.param
    host = grown(kind)
    return Saved(kind, host, save_grown(host.export_plain(), tmp_path_factory.mktemp("grown") / kind))


def imported(folder: Path) -> ModuleType:
    """`grown.py` of a folder, as somebody else's program imports it."""
    spec = importlib.util.spec_from_file_location("grown", folder / "grown.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rebuilt(folder: Path, host: nn.Module) -> nn.Module:
    model = imported(folder).rebuild(host)
    assert isinstance(model, nn.Module)
    return model


def output_of(model: nn.Module, inputs: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        output: Tensor = model(inputs)
    return output


def test_a_rebuilt_model_gives_the_hosts_output_bit_for_bit(saved: Saved) -> None:
    again = rebuilt(saved.folder, MODELS[saved.kind]())
    x, _ = batch(saved.kind, 0)
    assert torch.equal(output_of(again, x), output_of(saved.host.model, x))
    assert not torch.equal(output_of(again, x), output_of(MODELS[saved.kind](), x))


def test_a_rebuilt_model_has_the_parameters_of_the_grown_one_and_can_be_trained_on(saved: Saved) -> None:
    again = rebuilt(saved.folder, MODELS[saved.kind]())
    assert sum(parameter.numel() for parameter in again.parameters()) == saved.host.parameters()
    again.train()
    again(batch(saved.kind, 1)[0]).square().sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_the_source_imports_torch_and_the_standard_library_alone(saved: Saved) -> None:
    source = (saved.folder / "grown.py").read_text()
    imports = {
        name.name.partition(".")[0] if isinstance(node, ast.Import) else str(node.module).partition(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imports == {"json", "pathlib", "torch"}
    assert "pickle" not in source


def test_what_stands_in_the_file_is_what_the_source_reads(saved: Saved) -> None:
    read, truth = imported(saved.folder).tensors(), load_file(saved.folder / "model.safetensors")
    assert read.keys() == truth.keys()
    assert all(torch.equal(read[name], truth[name]) and read[name].dtype == truth[name].dtype for name in truth)


def test_a_rebuilt_model_is_in_eval_mode(saved: Saved) -> None:
    assert not [module for module in rebuilt(saved.folder, MODELS[saved.kind]().train()).modules() if module.training]


def test_a_lone_layer_can_be_the_host(tmp_path: Path) -> None:
    torch.manual_seed(3)
    host = host_of(nn.Linear(20, 4), sites="", blueprints=("mlp:5",))
    into(host, "", 0, "mlp:5", *WHOLE)
    x = torch.randn(7, 20)
    again = rebuilt(save_grown(host.export_plain(), tmp_path / "saved"), nn.Linear(20, 4))
    assert torch.equal(output_of(again, x), output_of(host.model, x))


def test_inputs_with_more_dimensions_are_taken_as_the_host_takes_them(tmp_path: Path) -> None:
    host = grown("linear")
    layer, x = host.model.get_submodule("0"), torch.randn(2, 3, 20)
    again = rebuilt(save_grown(host.export_plain(), tmp_path / "saved"), MODELS["linear"]())
    assert torch.equal(output_of(again.get_submodule("0"), x), output_of(layer, x))


def test_a_host_in_which_nothing_grew_is_rebuilt_as_it_is(tmp_path: Path) -> None:
    host = host_of(MODELS["linear"]())
    again = rebuilt(save_grown(host.export_plain(), tmp_path / "saved"), MODELS["linear"]())
    assert [type(module) for module in again.modules()] == [type(module) for module in MODELS["linear"]().modules()]
    assert torch.equal(output_of(again, batch("linear", 0)[0]), output_of(host.model, batch("linear", 0)[0]))


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_a_buffer_of_any_dtype_and_shape_comes_back(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    buffer = (torch.arange(max(1, torch.Size(shape).numel())) % 2)[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    model = MODELS["linear"]()
    model.register_buffer("mask", buffer)
    folder = save_grown(host_of(model, sites="0").export_plain(), tmp_path / "saved")
    found = imported(folder).tensors()["mask"]
    assert (found.dtype, tuple(found.shape)) == (dtype, shape)
    assert torch.equal(found, buffer)


def test_a_host_of_another_shape_is_refused_by_torch(tmp_path: Path) -> None:
    folder = save_grown(grown("linear").export_plain(), tmp_path / "saved")
    other = MODELS["linear"]()
    other[6] = nn.Linear(8, 5)
    with pytest.raises(RuntimeError, match=r"size mismatch for 6\.weight"):
        rebuilt(folder, other)


def test_saving_again_replaces_what_was_saved(tmp_path: Path) -> None:
    host = grown("linear")
    folder = save_grown(host.export_plain(), tmp_path / "saved")
    Loop("linear", host.model, host).run(3, 5)
    assert save_grown(host.export_plain(), tmp_path / "saved") == folder
    assert sorted(path.name for path in folder.iterdir()) == ["grown.py", "model.safetensors"]
    x, _ = batch("linear", 0)
    assert torch.equal(output_of(rebuilt(folder, MODELS["linear"]()), x), output_of(host.model, x))


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o022, "0o755", "0o644"), (0o077, "0o700", "0o600")])
def test_the_umask_decides_who_may_read_what_was_saved(tmp_path: Path, umask: int, folder_mode: str, file_mode: str) -> None:
    folder = tmp_path / "grown"
    before = os.umask(umask)
    try:
        save_grown(nn.Linear(2, 2), folder)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())}
    assert modes == {"grown": folder_mode, "model.safetensors": file_mode, "grown.py": file_mode}


def test_saving_leaves_the_host_as_it_was(tmp_path: Path) -> None:
    one, other = (grown("linear") for name in ("one", "other"))
    save_grown(one.export_plain(), tmp_path / "saved")
    assert Loop("linear", one.model, one).run(3, 6) == Loop("linear", other.model, other).run(3, 6)


def test_a_body_that_has_no_source_is_refused_by_its_class(tmp_path: Path) -> None:
    host = host_of(MODELS["linear"](), blueprints=("mlp:5",))
    into(host, "0", 0, "mlp:5", *WHOLE)
    seed = host.model.get_submodule("0.seeds.0")
    seed.features = nn.Sequential(nn.Linear(20, 5), nn.Softplus())
    with pytest.raises(DataError, match="got a Softplus"):
        save_grown(host.export_plain(), tmp_path / "saved")


# A program of somebody else's, on a machine without Esper and safetensors: importing either ends it.
ELSEWHERE = """
import importlib.util, sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("esper", "safetensors"):
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Nowhere())
import torch
from torch import nn
torch.set_num_threads(1)
for kind in ("linear", "conv"):
    spec = importlib.util.spec_from_file_location("grown", sys.argv[1] + "/" + kind + "/grown.py")
    grown = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(grown)
    hosts = {
        "linear": nn.Sequential(
            nn.Linear(20, 12), nn.BatchNorm1d(12), nn.GELU(), nn.Dropout(0.2), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)
        ),
        "conv": nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(6, 5, 3, padding="same"),
            nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
        ),
    }
    x = torch.load(sys.argv[1] + "/" + kind + ".x", weights_only=True)
    with torch.no_grad():
        torch.save(grown.rebuild(hosts[kind])(x), sys.argv[1] + "/" + kind + ".y")
assert not [name for name in sys.modules if name.partition(".")[0] in ("esper", "safetensors")]
"""


@pytest.mark.whole
def test_a_machine_without_esper_computes_the_same_bits(tmp_path: Path) -> None:
    hosts = {kind: grown(kind) for kind in BODIES}
    for kind, host in hosts.items():
        save_grown(host.export_plain(), tmp_path / kind)
        torch.save(torch.randn(9, *INPUT[kind]), tmp_path / f"{kind}.x")
    subprocess.run((sys.executable, "-c", ELSEWHERE, tmp_path), check=True, env={"MKL_CBWR": "AVX2,STRICT"})
    for kind, host in hosts.items():
        x, y = (torch.load(tmp_path / f"{kind}.{which}", weights_only=True) for which in "xy")
        assert torch.equal(y, output_of(host.model, x))
