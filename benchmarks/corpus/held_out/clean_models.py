"""Clean trainings that differ in their model."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Case, Training, struck
from ..parts import adam, classify, mlp, random_of, regress, sgd, squared, trained, values
from .tasks import (
    Reader,
    Transformer,
    forecast,
    reading,
    spiral,
    winding,
)


class Denoiser(nn.Module):
    """The noise in a point of the plane, told how noisy it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(5, 48, 48, 2, active=nn.SiLU)


def _denoised(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Denoiser)
    points, draws = batch
    share = torch.rand(len(points), 1) if model.training else draws[:, :1]
    noise = torch.randn(points.shape) if model.training else draws[:, 1:]
    angle = share * math.pi / 2
    seen = torch.cat((angle.cos() * points + angle.sin() * noise, share, angle.cos(), angle.sin()), 1)
    result: Tensor = (model.layers(seen) - noise).square().mean(1)
    return result


def _diffusion(rng_seed: int) -> Training:
    points, _ = spiral(rng_seed)
    random = random_of(rng_seed, "draws")
    draws = torch.cat((torch.rand(len(points), 1, generator=random), torch.randn(points.shape, generator=random)), 1)
    return replace(trained(Denoiser(), (points, draws), squared, adam(5e-3), epochs=16), options={"objective": _denoised})


class Deep(nn.Module):
    """Thirty blocks, each of which adds nothing at first: its factor begins at zero (Bachlechner et al., 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 24), nn.Linear(24, 3)
        self.blocks, self.factors = nn.ModuleList(nn.Linear(24, 24) for _ in range(30)), nn.Parameter(torch.zeros(30))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        hidden: Tensor = self.first(inputs)
        for factor, block in zip(self.factors, self.blocks, strict=True):
            hidden = hidden + factor * F.relu(block(hidden))
        logits: Tensor = self.last(hidden)
        return logits


class Waves(nn.Module):
    """Sines of sines: layers that begin as Sitzmann et al. (2020) say."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 1)))
        nn.init.uniform_(self.layers[0].get_parameter("weight"), -0.5, 0.5)
        nn.init.uniform_(self.layers[1].get_parameter("weight"), -0.43 / 6, 0.43 / 6)

    def forward(self, inputs: Tensor) -> Tensor:
        """A value."""
        hidden = torch.sin(6 * self.layers[0](inputs))
        value: Tensor = self.layers[2](torch.sin(6 * self.layers[1](hidden)))
        return value


def _picture(rng_seed: int) -> Training:
    random = random_of(rng_seed, "picture")
    places = torch.rand(900, 2, generator=random) * 2 - 1
    shades = torch.sin(5 * places[:, :1]) * torch.cos(4 * places[:, 1:])
    return trained(Waves(), (places, shades), squared, adam(2e-3), epochs=14)


class Flow(nn.Module):
    """Points of the plane through six couplings; minus the log likelihood of each."""

    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(mlp(1, 24, 2, active=nn.Tanh) for _ in range(6))

    def forward(self, points: Tensor) -> Tensor:
        """(samples,)."""
        one, other, grown = points[:, :1], points[:, 1:], torch.zeros(len(points))
        for coupling in self.couplings:
            scale, shift = coupling(one).chunk(2, 1)
            one, other = other * torch.exp(scale.tanh()) + shift, one
            grown = grown + scale.tanh().squeeze(1)
        return 0.5 * (one.square() + other.square()).squeeze(1) + math.log(2 * math.pi) - grown


def _flow(rng_seed: int) -> Training:
    points, arms = spiral(rng_seed, noise=0.08)
    made = trained(Flow(), (points * 0.2, arms), squared, adam(3e-3), epochs=9)
    return replace(made, options={"objective": lambda model, batch: model(batch[0])})


class Messages(nn.Module):
    """Two rounds of messages between the eight nodes of a graph; a value of the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = mlp(8, 24, 24), mlp(48, 24, 24), nn.Linear(24, 1)

    def forward(self, graph: Tensor) -> Tensor:
        """(samples, 1)."""
        nodes, edges = graph[..., :4], graph[..., 4:]
        hidden = self.first(torch.cat((nodes, edges @ nodes), 2))
        hidden = self.second(torch.cat((hidden, edges @ hidden), 2))
        value: Tensor = self.last(hidden.mean(1))
        return value


def _graphs(rng_seed: int) -> Training:
    random = random_of(rng_seed, "graphs")
    nodes = torch.randn(640, 8, 4, generator=random)
    edges = (torch.rand(640, 8, 8, generator=random) < 0.3).float().triu(1)
    edges = edges + edges.transpose(1, 2)
    alike = (edges @ nodes[..., :1] * nodes[..., :1]).mean((1, 2), keepdim=True).squeeze(2)
    return trained(Messages(), (torch.cat((nodes, edges), 2), alike), squared, adam(5e-3), epochs=24)


class Codebook(nn.Module):
    """An autoencoder whose code is the nearest of sixteen; the gradient goes past the choice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = mlp(16, 32, 4), mlp(4, 32, 16), nn.Parameter(0.5 * torch.randn(16, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        """What is minimised, of each sample."""
        meant = self.encoder(inputs)
        chosen = self.codes[torch.cdist(meant.detach(), self.codes.detach()).argmin(1)]
        made = self.decoder(meant + (chosen - meant).detach())
        kept = (chosen - meant.detach()).square().mean(1) + 0.25 * (chosen.detach() - meant).square().mean(1)
        loss: Tensor = (made - inputs).square().mean(1) + kept
        return loss


def _codebook(rng_seed: int) -> Training:
    random = random_of(rng_seed, "kinds")
    kinds = torch.randn(8, 16, generator=random)
    inputs = kinds[torch.randint(8, (800,), generator=random)] + 0.2 * torch.randn(800, 16, generator=random)
    made = trained(Codebook(), (inputs, inputs), squared, adam(5e-3), epochs=16)
    return replace(made, options={"objective": lambda model, batch: model(batch[0])})


class Twin(nn.Module):
    """A net, what it predicts of its teacher, and the teacher: its own average over training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.predicts = mlp(16, 48, 8, between=nn.BatchNorm1d), mlp(8, 24, 8)
        self.teacher = copy.deepcopy(self.online).requires_grad_(requires_grad=False)


def _taught(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, Twin)
    inputs, _ = batch
    one, other = inputs + 0.3 * torch.randn(inputs.shape), inputs + 0.3 * torch.randn(inputs.shape)
    if model.training:
        with torch.no_grad():
            for slow, fast in zip(model.teacher.parameters(), model.online.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
    return 1 - F.cosine_similarity(model.predicts(model.online(one)), model.teacher(other).detach())


def _parity(rng_seed: int) -> Training:
    """Whether the number of signs among three of eight is odd: nothing is learnt for a while, then all of it."""
    inputs = torch.randint(2, (1200, 8), generator=random_of(rng_seed, "parity")).float() * 2 - 1
    odd = (inputs[:, :3].prod(1) > 0).long()
    return classify(rng_seed, mlp(8, 48, 2), sgd(0.06), data=(inputs, odd), epochs=30)


class Values(nn.Module):
    """Values of four actions, and a copy of them that is renewed every fifty training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.online = mlp(4, 32, 4)
        self.copied, self.steps = copy.deepcopy(self.online).requires_grad_(requires_grad=False), 0


def bellman(model: nn.Module, batch: Any, discount: float = 0.8) -> Tensor:
    """The squared error of values against a reward and the copy's values afterwards."""
    assert isinstance(model, Values)
    states, moves = batch
    model.steps += model.training
    if model.training and model.steps % 50 == 0:
        model.copied.load_state_dict(model.online.state_dict())
    wanted = moves[:, 1] + discount * model.copied(moves[:, 2:]).amax(1)
    chosen = model.online(states).gather(1, moves[:, :1].long()).squeeze(1)
    result: Tensor = (chosen - wanted.detach()).square()
    return result


def controlling(rng_seed: int, discount: float = 0.8, epochs: int = 20, **options: Any) -> Training:
    """Values of moves that were recorded: 25 steps an epoch."""
    random = random_of(rng_seed, "moves")
    states, action = torch.randn(960, 4, generator=random), torch.randint(4, (960, 1), generator=random)
    later = 0.7 * states + 0.6 * F.one_hot(action.squeeze(1), 4) + 0.1 * torch.randn(960, 4, generator=random)
    moves = torch.cat((action, 1 - later.square().mean(1, keepdim=True), later), 1)
    made = trained(Values(), (states, moves), squared, adam(3e-3), epochs=epochs)
    return replace(made, options={"objective": lambda model, batch: bellman(model, batch, discount), **options})


class Dilated(nn.Module):
    """Convolutions over time, each twice as far apart as the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(before, 16, 2, dilation=far) for before, far in ((3, 1), (16, 2), (16, 4), (16, 8)))
        self.last = nn.Linear(16, 1)

    def forward(self, window: Tensor) -> Tensor:
        """The next value."""
        hidden = window.transpose(1, 2)
        for layer in self.layers:
            hidden = F.gelu(layer(hidden))
        value: Tensor = self.last(hidden[:, :, -1])
        return value


def _stochastic_depth(rng_seed: int) -> Training:
    """Each batch goes through some of the blocks alone."""

    def skipped(training: Training, _since: int, batch: Any) -> Any:
        blocks = training.model.get_submodule("blocks")
        for block in blocks.children():
            setattr(block, "skips", bool(torch.rand(()) < 0.2))  # noqa: B010
        return batch

    return struck(reading(rng_seed, Skipping(), adam(5e-3)), 0, skipped)


class Skipping(Transformer):
    """A transformer, each block of which may be passed by in training."""

    def forward(self, text: Tensor) -> Tensor:
        """(samples, places, words)."""
        hidden = self.table(text) + self.places[: text.shape[1]]
        for block in self.blocks:
            hidden = hidden if self.training and getattr(block, "skips", False) else block(hidden)
        logits: Tensor = self.last(hidden)
        return logits


def _made(group: str, cases: dict[str, Callable[[int], Training]]) -> tuple[Case, ...]:
    return tuple(Case(name, group, make) for name, make in cases.items())


MODELS = _made(
    "model",
    {
        "forecast_by_lstm": forecast,
        "forecast_by_dilated_convolutions": lambda s: forecast(s, Dilated(), adam(5e-3)),
        "reader_of_sentences": lambda s: reading(s, Reader(dropout=0.2), epochs=16),
        "blocks_passed_by": _stochastic_depth,
        "denoising_by_levels": _diffusion,
        "thirty_blocks_from_zero": lambda s: winding(s, Deep(), adam(2e-3), epochs=14),
        "four_thousand_wide": lambda s: regress(s, mlp(16, 4096, 1), adam(1e-4), epochs=8),
        "sines_of_sines": _picture,
        "flow_of_couplings": _flow,
        "messages_in_graphs": _graphs,
        "codebook": _codebook,
        "pupil_of_its_average": lambda s: replace(trained(Twin(), values(s), squared), options={"objective": _taught}),
        "parity_learnt_late": _parity,
        "copied_values": controlling,
    },
)
