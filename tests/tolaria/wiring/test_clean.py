"""What is meant is no fault: trainings whose wiring looks odd and is right."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import esper
from esper.events.kinds.wiring_findings import OutcomeJudged, WiringFound
from esper.oona.directory import Directory
from tests.recipes import events
from tests.tolaria.wiring.trainings import classes, cut, found, mlp, values

Made = dict[str, Any]  # Any: the arguments of `found`.


def adam(model: nn.Module, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr)


def frozen_on_purpose() -> Made:
    model = mlp(8, 16, 3)
    model[0].requires_grad_(requires_grad=False)
    return {"model": model, "optimizer": torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-2)}


class Adapted(nn.Module):
    """A frozen layer with a low-rank branch whose last matrix begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = mlp(8, 16, 3), nn.Linear(8, 2, bias=False), nn.Linear(2, 3, bias=False)
        self.base.requires_grad_(requires_grad=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.base(inputs) + self.up(self.down(inputs))
        return output


class Gated(nn.Module):
    """A branch behind a factor that begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last, self.share = nn.Linear(8, 16), mlp(16, 16, 16), nn.Linear(16, 3), nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        output: Tensor = self.last(hidden + self.share * self.branch(hidden))
        return output


class Rare(nn.Module):
    """A table of which a batch meets few rows."""

    def __init__(self, *, sparse: bool = False) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(4000, 8, sparse=sparse), nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        output: Tensor = self.last(self.table(words).mean(1))
        return output


def words() -> Made:
    generator = torch.Generator().manual_seed(2)
    text = torch.randint(4000, (416, 4), generator=generator)
    labels = text[:, 0] % 3
    return {"train": cut(text[:320], labels[:320]), "valid": cut(text[320:], labels[320:])}


def rare_words() -> Made:
    return {"model": Rare(), **words()}


def sparse_gradients() -> Made:
    model = Rare(sparse=True)
    return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.5), "clip": None, **words()}


def warm_up_by_step() -> Made:
    model = mlp(8, 16, 3)
    optimizer = adam(model)
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": LambdaLR(optimizer, lambda step: min(1.0, step / 30)),
        "scheduler_every": "step",
    }


def warm_up_by_epoch() -> Made:
    model = mlp(8, 16, 3)
    optimizer = adam(model)
    return {"model": model, "optimizer": optimizer, "scheduler": LambdaLR(optimizer, lambda epoch: min(1.0, epoch / 2)), "epochs": 4}


def down_to_zero() -> Made:
    model = mlp(8, 16, 3)
    optimizer = adam(model)
    return {"model": model, "optimizer": optimizer, "scheduler": LambdaLR(optimizer, lambda epoch: 1 - epoch / 3), "epochs": 4}


class Tied(nn.Module):
    """One matrix, in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(12, 8), nn.Linear(8, 12, bias=False)
        self.last.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        output: Tensor = self.last(self.table(words))
        return output


def tied() -> Made:
    words = torch.randint(12, (416,), generator=torch.Generator().manual_seed(2))
    answers = (words * 5 + 1) % 12
    return {"model": Tied(), "train": cut(words[:320], answers[:320]), "valid": cut(words[320:], answers[320:])}


class Pair(nn.Module):
    """A generator, and a critic that learns by an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = mlp(8, 16, 2), mlp(2, 16, 1)
        self.own = torch.optim.Adam(self.critic.parameters(), lr=1e-3)


def adversarial(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Pair)
    noise, points = batch
    if model.training:
        model.own.zero_grad()
        wrong = F.softplus(model.critic(model.generator(noise).detach())) + F.softplus(-model.critic(points[:, None] + torch.zeros(1, 2)))
        wrong.mean().backward()
        model.own.step()
    return F.softplus(-model.critic(model.generator(noise))).mean()


def own_optimizer() -> Made:
    model = Pair()
    return {"model": model, "objective": adversarial, "optimizer": adam(model.generator)}


class Taught(nn.Module):
    """A student, and a teacher that is its average: a copy that takes part in no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = mlp(8, 16, 3), mlp(8, 16, 3)


def averaged(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Taught)
    inputs, labels = batch
    with torch.no_grad():
        wanted = model.teacher(inputs).softmax(1)
        for one, other in zip(model.teacher.parameters(), model.student.parameters(), strict=True) if model.training else ():
            one.lerp_(other, 0.05)
    output = model.student(inputs)
    return F.cross_entropy(output, labels) + F.cross_entropy(output, wanted)


def mean_teacher() -> Made:
    return {"model": Taught(), "objective": averaged}


class KeptNormal(nn.BatchNorm1d):
    """A normalisation that stays with the statistics that it was trained with."""

    def train(self, _mode: bool = True) -> "KeptNormal":
        super().train(False)
        return self


def normalisation_frozen() -> Made:
    model = nn.Sequential(nn.Linear(8, 16), KeptNormal(16), nn.ReLU(), nn.Linear(16, 3))
    assert isinstance(model[1].num_batches_tracked, Tensor)
    model[1].num_batches_tracked.fill_(1000)
    return {"model": model}


class Routed(nn.Module):
    """Each sample goes to one of four experts; some wait long for their first."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(8, 8, 3) for _ in range(4))

    def forward(self, inputs: Tensor) -> Tensor:
        chosen = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 1.7).long()
        output = torch.zeros(len(inputs), 3)
        for number, expert in enumerate(self.experts):
            if (chosen == number).any():
                output = output.index_copy(0, (chosen == number).nonzero().squeeze(1), expert(inputs[chosen == number]))
        return output


def routed() -> Made:
    return {"model": Routed()}


class Skipping(nn.Module):
    """Blocks that are left out of most passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks, self.last = nn.Linear(8, 8), nn.ModuleList(mlp(8, 8, 8) for _ in range(3)), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        for block in self.blocks:
            if not self.training or torch.rand(()) < 0.3:
                hidden = hidden + block(hidden)
        output: Tensor = self.last(hidden)
        return output


def depth_is_drawn() -> Made:
    return {"model": Skipping()}


def grows() -> Made:
    fast: dict[str, JsonValue] = {"policy.window": 3, "policy.train_epochs": 1, "policy.tolerance": 0.9, "gate.cooldown": 1}
    return {"model": mlp(8, 16, 3), "grow": esper.Grow(sites="0", max_parameters=9.0, settings=fast), "epochs": 12}


def begins_at_zero() -> Made:
    return {"model": zero_head(8, 3)}


def one_image() -> Made:
    """The same noise, and the same picture that it must become."""
    noise, picture = torch.randn(1, 8), torch.rand(1, 20)
    return {"model": mlp(8, 16, 20), "train": [(noise, picture)] * 20, "valid": [(noise, picture)], "loss": F.mse_loss}


def copies_its_input() -> Made:
    inputs, _ = values()
    later, _ = values(96, 6)
    return {"model": mlp(8, 6, 8), "train": cut(inputs, inputs), "valid": cut(later, later), "loss": F.mse_loss}


def bits() -> Made:
    """Inputs of which there are only 256: validation has some that training had too."""
    inputs = torch.randint(2, (416, 8), generator=torch.Generator().manual_seed(2)).float()
    labels = inputs[:, :2].sum(1).long()
    return {"model": mlp(8, 16, 3), "train": cut(inputs[:320], labels[:320]), "valid": cut(inputs[320:], labels[320:])}


class Drawn(nn.Module):
    """An autoencoder whose code is drawn, in validation too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        mean, spread = self.encoder(inputs).chunk(2, 1)
        output: Tensor = self.decoder(mean + spread.exp() * torch.randn(mean.shape))
        return output


def draws_in_validation() -> Made:
    return {**copies_its_input(), "model": Drawn()}


class OnSphere(nn.Module):
    """Weights that are scaled to one length before each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight.div_(self.weight.norm(dim=1, keepdim=True))
        return 5 * F.linear(inputs, self.weight)


def on_sphere() -> Made:
    return {"model": OnSphere()}


def large_targets() -> Made:
    inputs, targets = values()
    later, wanted = values(96, 6)
    return {
        "model": mlp(8, 16, 1),
        "train": cut(inputs, 1000 + 3 * targets),
        "valid": cut(later, 1000 + 3 * wanted),
        "loss": F.mse_loss,
        "clip": None,
    }


class Valued(nn.Module):
    """Values, and a copy that follows slowly: the loss begins near zero and rises as there is more to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.slow = mlp(8, 16, 3), mlp(8, 16, 3).requires_grad_(requires_grad=False)
        for part in (self.online, self.slow):
            for name in ("2.weight", "2.bias"):
                nn.init.zeros_(part.get_parameter(name))
        self.seen = 0


def bellman(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Valued)
    states, action = batch
    if model.training:
        model.seen += 1
        with torch.no_grad():
            for slow, online in zip(model.slow.parameters(), model.online.parameters(), strict=True):
                slow.lerp_(online, 0.2)
    reward = 0.0 if model.seen < 5 else 1.0 + states[:, 0]
    wanted = reward + 0.9 * model.slow(states.roll(1, 0)).amax(1)
    return F.smooth_l1_loss(model.online(states).gather(1, action[:, None]).squeeze(1), wanted.detach())


def values_begin_at_zero() -> Made:
    return {"model": Valued(), "objective": bellman, "optimizer": None}


def tuned_in_eval_backbone() -> Made:
    """A frozen backbone whose dropout stays off, under a head that learns."""

    class Still(nn.Sequential):
        def train(self, _mode: bool = True) -> "Still":
            super().train(False)
            return self

    body = Still(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.3)).requires_grad_(requires_grad=False)
    head = nn.Linear(16, 3)
    return {"model": nn.Sequential(body, head), "optimizer": adam(head)}


def features_without_gradient() -> Made:
    """A backbone that is run under `no_grad`, and not frozen otherwise; only the head is given to the optimizer."""

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = mlp(8, 16, 16), nn.Linear(16, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            with torch.no_grad():
                hidden = self.body(inputs)
            output: Tensor = self.head(hidden)
            return output

    model = Features()
    return {"model": model, "optimizer": adam(model.head)}


def gently_tuned() -> Made:
    model = mlp(8, 16, 3)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-5), "epochs": 3}


def in_float16_inputs() -> Made:
    inputs, labels = classes()
    return {"model": mlp(8, 16, 3).double(), "train": cut(inputs.double(), labels), "valid": cut(inputs[:96].double() + 0.01, labels[:96])}


def zero_head(inputs: int, outputs: int) -> nn.Linear:
    head = nn.Linear(inputs, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def decoupled_decay() -> Made:
    """A decay that multiplies the weights, of an optimizer that does not say so."""
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False))
    return {"model": model, "optimizer": torch.optim.Muon(model.parameters(), lr=1e-3, weight_decay=5.0)}


class Heads(nn.Module):
    """Two heads that begin at zero, side by side on a scaled backbone that learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(8, 16, 16).requires_grad_(requires_grad=False)
        self.scale, self.first, self.second = nn.Parameter(torch.ones(16, 1)), zero_head(16, 3), zero_head(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.body(inputs) * self.scale[:, 0]
        output: Tensor = self.first(hidden) + 0.5 * self.second(hidden)
        return output


def heads_at_zero() -> Made:
    model = Heads()
    return {"model": model, "optimizer": adam(model)}


def low_rank() -> Made:
    return {"model": Adapted()}


def branch_behind_zero() -> Made:
    return {"model": Gated()}


KINDS: list[Callable[[], Made]] = [
    frozen_on_purpose,
    decoupled_decay,
    heads_at_zero,
    low_rank,
    branch_behind_zero,
    rare_words,
    sparse_gradients,
    warm_up_by_step,
    warm_up_by_epoch,
    down_to_zero,
    tied,
    own_optimizer,
    mean_teacher,
    normalisation_frozen,
    routed,
    depth_is_drawn,
    grows,
    begins_at_zero,
    one_image,
    copies_its_input,
    bits,
    draws_in_validation,
    on_sphere,
    large_targets,
    values_begin_at_zero,
    tuned_in_eval_backbone,
    features_without_gradient,
    gently_tuned,
    in_float16_inputs,
]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_what_is_meant_is_no_fault(make: Callable[[], Made], tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make()
    told = found(tmp_path, made.pop("model"), **made)
    assert [(one.check, one.measured) for one in told.values() if one.severity != "info"] == []


@pytest.mark.parametrize("size", [2, 96])
def test_validation_data_that_are_sorted_by_class_do_not_make_guessing_look_easy(tmp_path: Path, size: int) -> None:
    inputs, targets = classes(96, rng_seed=6)
    order = targets.argsort(stable=True)
    model = mlp(8, 16, 3)
    result = esper.fit(
        model,
        cut(*classes()),
        cut(inputs[order], targets[order], size),
        loss=F.cross_entropy,
        optimizer=adam(model),
        epochs=6,
        log=tmp_path,
        grow=None,
        observe=False,
    )
    shares = targets.bincount() / len(targets)
    (judged,) = events(Directory(tmp_path), result.run, OutcomeJudged)
    assert judged.guessing == pytest.approx(float(-(shares * shares.log()).sum()), abs=0.2)
    assert judged.verdict == "learned"
    assert not [one for one in events(Directory(tmp_path), result.run, WiringFound) if one.severity != "info"]
