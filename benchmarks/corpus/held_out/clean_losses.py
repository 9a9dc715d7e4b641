"""Clean trainings that differ in their loss: what it adds up, where it begins, whether it may rise, whether it means anything by itself."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..case import Case, Pair, Training
from ..parts import adam, classify, mlp, random_of, regress, sgd, squared, trained, values
from .tasks import cells, customers, dice, leaving, segment, segmenter, winding


def _claims(rng_seed: int) -> Training:
    """Sums of claims: most are zero, some are large."""
    inputs, level = values(rng_seed)
    random = random_of(rng_seed, "claims")
    number = torch.poisson((0.7 * level - 0.7).exp(), generator=random)
    sums = number * (0.5 * torch.randn(level.shape, generator=random)).exp()

    def deviance(output: Tensor, target: Tensor) -> Tensor:
        return (-target * torch.exp(-0.5 * output) / -0.5 + torch.exp(0.5 * output) / 0.5).squeeze(1)

    return regress(rng_seed, data=(inputs, sums), loss=deviance, epochs=16)


def _quantiles(output: Tensor, target: Tensor) -> Tensor:
    shares, error = torch.tensor((0.1, 0.5, 0.9)), target - output
    return torch.maximum(shares * error, (shares - 1) * error).sum(1)


class TwoTasks(nn.Module):
    """A body with two heads, and what each loss is worth, which is learnt too (Kendall et al., 2018, equation 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.value = mlp(16, 32, 24), nn.Linear(24, 2), nn.Linear(24, 1)
        self.log_variances = nn.Parameter(torch.zeros(2))


def _weighed(model: nn.Module, batch: Any) -> Tensor:
    assert isinstance(model, TwoTasks)
    inputs, targets = batch
    hidden = F.relu(model.body(inputs))
    chosen = F.cross_entropy(model.classes(hidden), (targets[:, 0] > 0).long(), reduction="none")
    far = (model.value(hidden) - targets).square().squeeze(1)
    one, other = model.log_variances
    result: Tensor = torch.exp(-one) * chosen + one / 2 + torch.exp(-other) * far / 2 + other / 2
    return result


def _survival(rng_seed: int) -> Training:
    """Times until an event, of which a third are cut off by the end of the study; the partial likelihood of Cox."""
    inputs, risk = values(rng_seed)
    random = random_of(rng_seed, "survival")
    times = -torch.rand(risk.shape, generator=random).clamp_min(1e-6).log() * torch.exp(-1.5 * risk)
    ends = -torch.rand(risk.shape, generator=random).clamp_min(1e-6).log() * 2
    seen = (times <= ends).float()

    def partial(output: Tensor, target: Tensor) -> Tensor:
        at_risk = target[:, 0] >= target[:, :1]
        largest = torch.where(at_risk, output.T, -math.inf).logsumexp(1)
        return target[:, 1] * (largest - output.squeeze(1))

    data = inputs, torch.cat((torch.minimum(times, ends), seen), 1)
    return regress(rng_seed, data=data, loss=partial, epochs=16)


class Mixture(nn.Module):
    """Shares, means and log deviations of three normal distributions of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(2, 32, 9, active=nn.Tanh)

    def forward(self, inputs: Tensor) -> Tensor:
        """(samples, 9)."""
        output: Tensor = self.inner(inputs)
        return output


def _mixed(output: Tensor, target: Tensor) -> Tensor:
    shares, means, deviations = output.chunk(3, 1)
    deviations = deviations.clamp_min(-4)
    each = -0.5 * ((target - means) * torch.exp(-deviations)).square() - deviations - 0.919
    return -torch.logsumexp(shares.log_softmax(1) + each, 1)


def _two_valued(rng_seed: int) -> Training:
    """Two answers are right for every input."""
    random = random_of(rng_seed, "two_valued")
    inputs = torch.rand(800, 2, generator=random) * 2 - 1
    side = torch.randint(2, (800, 1), generator=random) * 2 - 1
    targets = side * (inputs[:, :1] * 2).cos() + 0.05 * torch.randn(800, 1, generator=random)
    return trained(Mixture(), (inputs, targets), _mixed, adam(1e-2), epochs=16)


class Listener(nn.Module):
    """A convolution over frames; log probabilities of four signs and the blank."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(6, 24, 3, padding=1), nn.Conv1d(24, 5, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        """(places, samples, 5)."""
        output: Tensor = self.last(F.relu(self.first(frames.transpose(1, 2))))
        return output.permute(2, 0, 1).log_softmax(2)


def _heard(output: Tensor, target: Tensor) -> Tensor:
    lengths = torch.full((output.shape[1],), output.shape[0])
    return F.ctc_loss(output, target, lengths, torch.full_like(lengths, target.shape[1]), reduction="none") / target.shape[1]


def _speech(rng_seed: int) -> Training:
    """Four signs, each some frames long and with silence about it; where each stands nobody says."""
    random = random_of(rng_seed, "speech")
    shapes, said = torch.randn(5, 6, generator=random), torch.randint(1, 5, (560, 4), generator=random)
    frames = 0.4 * torch.randn(560, 20, 6, generator=random)
    begins = 5 * torch.arange(4) + torch.randint(2, (560, 4), generator=random)
    for further in range(3):
        frames[torch.arange(560)[:, None], begins + further] += shapes[said]
    return trained(Listener(), (frames, said), _heard, adam(5e-3), epochs=16)


def margin(model: nn.Module, batch: Any, *, hardest: bool = False) -> Tensor:
    """How much nearer than another class's samples those of its class are not, of each sample; or only the hardest two of each."""
    inputs, labels = batch
    placed = F.normalize(model(inputs), dim=1)
    apart = (placed[:, None] - placed[None]).square().sum(2)
    same = labels[:, None] == labels[None]
    if hardest:
        return F.relu(torch.where(same, apart, -1.0).amax(1) - torch.where(same, 9.0, apart).amin(1) + 0.3)
    wrong = F.relu(apart[:, :, None] - apart[:, None] + 0.3) * (same[:, :, None] & ~same[:, None])
    result: Tensor = wrong.sum((1, 2)) / (same.sum(1) * (~same).sum(1)).clamp_min(1)
    return result


class Coded(nn.Module):
    """A variational autoencoder whose divergence counts for more and more over its first 150 training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 48, 8), mlp(4, 48, 64)
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        """What is minimised, of each sample; in eval mode with the whole divergence."""
        self.steps += self.training
        mean, spread = self.encoder(images.flatten(1)).chunk(2, 1)
        code = mean + torch.exp(spread / 2) * torch.randn(mean.shape) if self.training else mean
        divergence = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(1)
        made = (self.decoder(code) - images.flatten(1)).square().sum(1)
        bound: Tensor = made + (min(1.0, self.steps / 150) if self.training else 1.0) * divergence
        return bound


def _annealed(rng_seed: int) -> Training:
    images, _ = cells(rng_seed, noise=0.1)
    made = trained(Coded(), (images[:, :, 2:10, 2:10], images), squared, adam(5e-3), epochs=24)
    return replace(made, options={"objective": lambda model, batch: model(batch[0])})


class Player(nn.Module):
    """A policy over four actions, and what it expects of a situation."""

    def __init__(self) -> None:
        super().__init__()
        self.policy, self.value = mlp(6, 32, 4), mlp(6, 32, 1)


def played(model: nn.Module, batch: Any) -> Tensor:
    """In train mode the loss of an actor and its critic, on actions that are drawn; in eval mode minus the reward that is expected."""
    assert isinstance(model, Player)
    situations, rewards = batch
    chances = model.policy(situations).log_softmax(1)
    if not model.training:
        result: Tensor = -(chances.exp() * rewards).sum(1)
        return result
    action = torch.multinomial(chances.exp().detach(), 1)
    reward, expected = rewards.gather(1, action), model.value(situations)
    advantage = (reward - expected).detach()
    entropy = -(chances.exp() * chances).sum(1)
    loss: Tensor = (-advantage * chances.gather(1, action) + 0.5 * (reward - expected).square()).squeeze(1) - 0.01 * entropy
    return loss


def situations(rng_seed: int, samples: int = 960) -> Pair:
    """Situations of six numbers, and what each of four actions earns in them: less than nothing on the whole."""
    random = random_of(rng_seed, "situations")
    inputs = torch.randn(samples, 6, generator=random)
    hidden = torch.tanh(inputs @ torch.randn(6, 10, generator=random))
    return inputs, hidden @ torch.randn(10, 4, generator=random) / 2 - 1 + 0.2 * torch.randn(samples, 4, generator=random)


def playing(rng_seed: int, **options: Any) -> Training:
    """An actor and its critic: 25 steps an epoch."""
    made = trained(Player(), situations(rng_seed), squared, adam(options.pop("lr", 5e-3)), **options)
    return replace(made, options={"objective": played})


class Factors(nn.Module):
    """Users and things, each as eight numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(60, 8), nn.Embedding(80, 8)
        for table in (self.users, self.things):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, asked: Tensor) -> Tensor:
        """How much better (user, one, other) likes the one."""
        users, one, other = self.users(asked[:, 0]), self.things(asked[:, 1]), self.things(asked[:, 2])
        result: Tensor = (users * (one - other)).sum(1)
        return result


def preferences(rng_seed: int, samples: int = 2080) -> Pair:
    """(user, one thing, another), and 1 where the user likes the one better."""
    random = random_of(rng_seed, "preferences")
    users, things = torch.randn(60, 3, generator=random), torch.randn(80, 3, generator=random)
    asked = torch.stack([torch.randint(most, (samples,), generator=random) for most in (60, 80, 80)], 1)
    better = (users[asked[:, 0]] * (things[asked[:, 1]] - things[asked[:, 2]])).sum(1) + 0.3 * torch.randn(samples, generator=random)
    return asked, (better > 0).float()


def _ranked(rng_seed: int) -> Training:
    def apart(output: Tensor, target: Tensor) -> Tensor:
        return F.softplus(-output * (2 * target - 1))

    return trained(Factors(), preferences(rng_seed), apart, adam(1e-2), epochs=10)


def _hardest(output: Tensor, target: Tensor) -> Tensor:
    """In training the mean over the hardest quarter of the batch."""
    losses = F.cross_entropy(output, target, reduction="none")
    return losses.topk(max(1, len(losses) // 4)).values.mean() if output.requires_grad else losses.mean()


def _sparse(rng_seed: int) -> Training:
    """One input in six matters; the loss counts the size of the weights."""
    inputs, _ = values(rng_seed, samples=480)
    wide = torch.cat((inputs, torch.randn(480, 80, generator=random_of(rng_seed, "wide"))), 1)
    targets = inputs @ torch.randn(16, 1, generator=random_of(rng_seed, "line")) / 2
    model = nn.Linear(96, 1)

    def penalised(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().squeeze(1) + 0.02 * model.weight.abs().sum()

    return trained(model, (wide, targets), penalised, sgd(0.02), epochs=14)


def _rare_counts(rng_seed: int) -> Training:
    """One customer in twelve leaves, and counts for eight."""
    inputs, leaves = customers(rng_seed, 3000)
    kept = (leaves == 0) | (torch.rand(3000, generator=random_of(rng_seed, "kept")) < 0.09)

    def weighed(output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output, target, pos_weight=torch.tensor(8.0), reduction="none")

    return leaving(rng_seed, data=(inputs[kept], leaves[kept]), loss=weighed, epochs=8)


_MADE: dict[str, Callable[[int], Training]] = {
    "claims_mostly_zero": _claims,
    "three_quantiles": lambda s: regress(s, mlp(16, 32, 3, active=nn.Tanh), loss=_quantiles),
    "tasks_weighed_by_learning": lambda s: replace(trained(TwoTasks(), values(s), squared, epochs=16), options={"objective": _weighed}),
    "survival": _survival,
    "mixture_density": _two_valued,
    "overlap_of_masks": lambda s: segment(s, segmenter(), adam(5e-3), loss=dice),
    "unaligned_speech": _speech,
    "all_triplets": lambda s: replace(winding(s, mlp(2, 48, 48, 8)), options={"objective": margin}),
    "divergence_grows_by_plan": _annealed,
    "actor_and_critic": lambda s: playing(s, epochs=16),
    "ranked_pairs": _ranked,
    "hardest_quarter": lambda s: winding(s, loss=_hardest),
    "weights_are_counted": _sparse,
    "thousand_is_added": lambda s: classify(s, loss=lambda o, t: 1000 + F.cross_entropy(o, t, reduction="none")),
    "rare_class_counts_more": _rare_counts,
}
LOSSES = tuple(Case(name, "loss", make) for name, make in _MADE.items())
