"""What a training is given is described by values alone: the same objects give the same description in every process."""

import functools
import math
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from esper.demo.tasks import TensorBatches
from esper.events.codec import as_stored, encode
from esper.events.kinds.training_description import Component, Loader, TrainingDescribed
from esper.masking import MASK
from esper.tolaria.description import describe
from esper.tolaria.objective import Batches, Objective, Supervised, WithoutMetrics
from esper.tolaria.training import Scheduler
from tests.tolaria.worlds import CPU

MODEL = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
SQUARED = Supervised(F.mse_loss)
DATA = TensorDataset(torch.zeros(100, 4), torch.zeros(100, 2))


def described(
    model: nn.Module = MODEL,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    scheduler: Scheduler | None = None,
    objective: Objective = SQUARED,
    train: Batches = (),
    source: bool = False,
) -> TrainingDescribed:
    """The description as the log has it."""
    made = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    loaders = {"train": train}
    found = describe(model, made, scheduler=scheduler, objective=objective, loaders=loaders, policy=None, device=CPU, source=source)
    assert as_stored(found) == found
    return found


def loss_of(loss: Any) -> Component:
    found = described(objective=Supervised(loss))
    assert found.loss is not None
    assert found.objective is None
    return found.loss


def loader_of(batches: Batches) -> Loader:
    (found,) = described(train=batches).loaders
    return found


def test_model_is_a_table_of_its_modules() -> None:
    found = described().model
    assert [(row.name, row.kind.rpartition(".")[2], row.shapes, row.parameters, row.trainable) for row in found.modules] == [
        ("", "Sequential", {}, 0, 0),
        ("0", "Linear", {"weight": (3, 4), "bias": (3,)}, 15, 15),
        ("1", "ReLU", {}, 0, 0),
        ("2", "Linear", {"weight": (2, 3), "bias": (2,)}, 8, 8),
    ]
    assert found.modules[1].options == {"in_features": 4, "out_features": 3}
    assert (found.parameters, found.trainable, found.left_out) == (23, 23, 0)


def test_digest_of_a_model_is_of_its_structure_and_not_of_its_weights() -> None:
    one, same, other = (described(nn.Linear(4, width)).model.digest for width in (3, 3, 2))
    assert one == same != other


def test_frozen_parameters_are_not_trainable() -> None:
    model = nn.Sequential(nn.Linear(4, 3).requires_grad_(requires_grad=False), nn.Linear(3, 2))
    found = described(model).model
    assert (found.parameters, found.trainable) == (23, 8)


def test_module_that_stands_twice_names_the_first_and_is_counted_once() -> None:
    layer = nn.Linear(4, 4)
    found = described(nn.Sequential(layer, nn.ReLU(), layer)).model
    assert [(row.name, row.same_as, row.parameters) for row in found.modules[1:]] == [("0", None, 20), ("1", None, 0), ("2", "0", 0)]


def test_tied_weights_are_counted_once() -> None:
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
    model[1].weight = model[0].weight
    assert described(model).model.parameters == 40 == sum(parameter.numel() for parameter in model.parameters())


def test_model_of_very_many_modules_is_cut_and_its_digest_is_not() -> None:
    models = [nn.Sequential(*(nn.Identity() for _ in range(5000)), last) for last in (nn.ReLU(), nn.Tanh())]
    one, other = (described(model, torch.optim.SGD([torch.zeros(1)])).model for model in models)
    assert (len(one.modules), one.left_out, one.modules == other.modules) == (5000, 2, True)
    assert one.digest != other.digest


def test_optimizer_has_its_class_and_the_options_of_every_group() -> None:
    groups: Iterable[dict[str, Any]] = [
        {"params": MODEL[0].parameters()},
        {"params": MODEL[2].parameters(), "lr": 1e-4, "weight_decay": 0.1},
    ]
    found = described(optimizer=torch.optim.AdamW(groups, lr=1e-3))
    assert found.optimizer.kind == "torch.optim.adamw.AdamW"
    assert [group.parameters for group in found.groups] == [("0.weight", "0.bias"), ("2.weight", "2.bias")]
    assert [(group.options["lr"], group.options["weight_decay"], group.options["betas"]) for group in found.groups] == [
        (1e-3, 0.01, [0.9, 0.999]),
        (1e-4, 0.1, [0.9, 0.999]),
    ]


def test_single_group_of_all_parameters_lists_none() -> None:
    assert described().groups[0].parameters is None


def test_learning_rate_in_a_tensor_is_a_number() -> None:
    assert described(optimizer=torch.optim.Adam(MODEL.parameters(), lr=torch.tensor(0.5))).groups[0].options["lr"] == 0.5


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda optimizer: CosineAnnealingLR(optimizer, 10), {"T_max": 10, "eta_min": 0.0, "base_lrs": [0.1], "last_epoch": 0}),
        (lambda optimizer: ReduceLROnPlateau(optimizer, patience=3), {"patience": 3, "factor": 0.1, "best": "Infinity"}),
    ],
)
def test_scheduler_has_its_class_and_its_options(make: Any, options: dict[str, object]) -> None:
    optimizer = torch.optim.SGD(MODEL.parameters(), lr=0.1)
    made = make(optimizer)
    found = described(optimizer=optimizer, scheduler=made).scheduler
    assert found is not None
    assert found.kind == f"torch.optim.lr_scheduler.{type(made).__name__}"
    assert options.items() <= found.options.items()


def test_schedulers_of_a_sequence_stand_within_it() -> None:
    optimizer = torch.optim.SGD(MODEL.parameters(), lr=0.1)
    parts: list[LRScheduler] = [LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, 10)]
    found = described(optimizer=optimizer, scheduler=SequentialLR(optimizer, parts, [5])).scheduler
    assert found is not None
    inner: Any = found.options["schedulers"]
    assert found.options["milestones"] == [5]
    assert [one["kind"].rpartition(".")[2] for one in inner] == ["LinearLR", "CosineAnnealingLR"]
    assert (inner[0]["options"]["total_iters"], inner[1]["options"]["T_max"]) == (5, 10)


def smooth(output: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    return F.smooth_l1_loss(output, target, beta=beta)


class Focal(nn.Module):
    """A loss of the user's own."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().pow(self.gamma).mean()


def test_loss_is_named() -> None:
    assert loss_of(F.mse_loss) == Component(kind="torch.nn.functional.mse_loss", options={}, digest=None)
    assert loss_of(nn.CrossEntropyLoss(label_smoothing=0.1)).kind == "torch.nn.modules.loss.CrossEntropyLoss"
    assert loss_of(nn.CrossEntropyLoss(label_smoothing=0.1)).options["label_smoothing"] == 0.1
    assert loss_of(functools.partial(smooth, beta=0.5)).kind == f"{__name__}.smooth"
    assert loss_of(functools.partial(smooth, beta=0.5)).options == {"beta": 0.5}
    assert (loss_of(Focal(2.0)).kind, loss_of(Focal(2.0)).options) == (f"{__name__}.Focal", {"gamma": 2.0})
    assert loss_of(Focal(2.0).forward).kind == f"{__name__}.Focal.forward"
    found = described(objective=WithoutMetrics(lambda _model, _batch: torch.zeros(())))
    assert found.loss is None
    assert found.objective is not None
    assert found.objective.kind.endswith("<lambda>")


def test_loss_of_the_users_own_has_a_digest_of_its_source() -> None:
    assert loss_of(smooth).digest == loss_of(functools.partial(smooth)).digest
    assert None not in (loss_of(smooth).digest, loss_of(Focal(2.0)).digest)
    assert loss_of(smooth).digest != loss_of(Focal(2.0)).digest


def test_values_that_a_function_closes_over_are_its_options() -> None:
    def weighted(weight: float) -> Any:
        return lambda output, target: weight * F.mse_loss(output, target)

    assert loss_of(weighted(0.5)).options == {"weight": 0.5}


def test_metrics_are_named() -> None:
    found = described(objective=Supervised(F.mse_loss, {"absolute": F.l1_loss})).metrics
    assert {name: one.kind for name, one in found.items()} == {"absolute": "torch.nn.functional.l1_loss"}


def test_loader_has_batch_size_sampler_and_workers() -> None:
    found = loader_of(DataLoader(DATA, batch_size=32, shuffle=True, drop_last=True, num_workers=2))
    assert (found.kind, found.batch_size, found.batches) == ("torch.utils.data.dataloader.DataLoader", 32, 3)
    assert (found.drop_last, found.workers) == (True, 2)
    assert found.sampler == Component(
        kind="torch.utils.data.sampler.RandomSampler", options={"replacement": False, "num_samples": None}, digest=None
    )
    assert found.options["collate_fn"] == "torch.utils.data._utils.collate.default_collate"
    assert found.dataset is not None
    assert found.dataset.kind == "torch.utils.data.dataset.TensorDataset"


def test_weights_of_a_sampler_have_a_digest() -> None:
    found = loader_of(DataLoader(DATA, sampler=WeightedRandomSampler(torch.ones(100).tolist(), 50))).sampler
    assert found is not None
    weights: Any = found.options["weights"]
    assert (weights["shape"], len(weights["digest"]), found.options["num_samples"]) == ([100], 64, 50)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Never ends."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield torch.zeros(4), torch.zeros(2)


def test_loader_of_a_stream_has_no_length() -> None:
    found = loader_of(DataLoader(Stream(), batch_size=8))
    assert (found.batch_size, found.batches) == (8, None)


def test_batches_in_memory_are_described_too() -> None:
    inputs, targets = torch.zeros(100, 4), torch.zeros(100, 2)
    assert (loader_of([(inputs[:30], targets[:30])]).batch_size, loader_of([]).batch_size) == (30, None)
    found = loader_of(TensorBatches(inputs, targets, 64, shuffle=True))
    assert (found.batch_size, found.batches, found.options["shuffle"], found.sampler, found.dataset) == (64, 2, True, None, None)


def test_number_formats_are_those_in_force() -> None:
    found = described(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())).precision
    assert (found.parameters, found.default, found.autocast, found.float32_matmul) == (("float32", "float64"), "float32", None, "highest")
    with torch.autocast("cpu", torch.bfloat16):
        assert described().precision.autocast == "bfloat16"


class Answering:
    """Answers for every name with something of its own."""

    __slots__ = ()

    def __getattr__(self, name: str) -> int:
        raise AssertionError(f"no code of the user's own runs for {name}")


class Odd:
    """Options of every kind."""

    def __init__(self) -> None:
        self.nan, self.infinity, self.large = math.nan, -math.inf, 2**70
        self.many = list(range(1000))
        self.text = "x" * 10_000
        self.api_key = "abc"
        self.itself = self
        self.kind, self.functions, self.answers = nn.Linear, F, Answering()
        self.device, self.dtype = torch.device("cpu"), torch.float16
        self.names = OrderedDict(a=1)
        self.surrogate = "\udce9"
        self._private = 1

    def __repr__(self) -> str:
        raise AssertionError("no code of the user's own runs for a description")

    @property
    def costly(self) -> int:
        raise AssertionError("nor does a property")

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)


def test_options_are_plain_values_with_secrets_masked() -> None:
    found = loss_of(Odd()).options
    assert (found["nan"], found["infinity"], found["large"]) == ("NaN", "-Infinity", str(2**70))
    assert found["many"] == {"kind": "builtins.list", "length": 1000}
    assert (len(str(found["text"])), found["api_key"], found["kind"]) == (500, MASK, "torch.nn.modules.linear.Linear")
    assert (found["device"], found["dtype"], found["names"], found["surrogate"]) == ("cpu", "torch.float16", {"a": 1}, "?")
    assert (found["functions"], found["answers"]) == ("torch.nn.functional", {"kind": f"{__name__}.Answering"})
    assert not {"_private", "costly"} & found.keys()


def test_module_that_a_loss_closes_over_is_its_name() -> None:
    """`torch` itself has an object that answers for every name, and everything in it would be described."""
    functions, everything = F, torch
    assert loss_of(lambda output, target: functions.mse_loss(output, everything.tanh(target))).options == {
        "everything": "torch",
        "functions": "torch.nn.functional",
    }


def test_description_holds_no_address_and_is_the_same_in_every_process() -> None:
    program = (
        "from tests.tolaria.test_description import Odd, described, Supervised, smooth, DATA, DataLoader; "
        "from esper.events.codec import encode; import sys; "
        "sys.stdout.buffer.write(encode(described(objective=Supervised(Odd(), {'a': smooth}), train=DataLoader(DATA, shuffle=True))))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    objective = Supervised(Odd(), {"a": smooth})
    assert done.stdout.replace(b"__main__", b"") == encode(described(objective=objective, train=DataLoader(DATA, shuffle=True)))
    assert b"0x" not in done.stdout


def test_source_is_left_out_on_request() -> None:
    assert described().sources is None
    assert described(source=True).sources is not None


def test_what_wraps_a_model_stands_in_none_of_its_names() -> None:
    wrapped = nn.DataParallel(MODEL)
    found = described(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.1))
    assert (found.model, found.groups[0].parameters) == (described().model, None)
