"""Trainings that are wired wrongly: a part that gets no gradient, or learns from the wrong numbers, or never moves."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from ..case import Case, Pair, Severity, Training, struck
from ..clean_courses import scheduled
from ..parts import adam, classes, classify, mlp, random_of, sgd, squared, trained, values
from .clean_tuning import adapters
from .tasks import Reader, forecast, leaving, looking, reading, striped, winding


class ShortMemory(Reader):
    """A recurrent net whose state loses its history at every place, so that nothing is learnt over time."""

    def __init__(self) -> None:
        super().__init__()
        self.step, self.last = nn.GRUCell(16, 32), nn.Linear(32, 2)
        del self.cell

    def forward(self, text: Tensor) -> Tensor:
        """The logits of a sentence's class."""
        state = torch.zeros(len(text), 32)
        for word in self.table(text).unbind(1):
            state = self.step(word, state.detach())
        logits: Tensor = self.last(state)
        return logits


def first_word(rng_seed: int, places: int = 6) -> Pair:
    """Sentences of any words, and whether the first word is one of the first ten."""
    text = torch.randint(20, (640, places), generator=random_of(rng_seed, "first_word"))
    return text, (text[:, 0] < 10).long()


class Rounded(nn.Module):
    """A code of whole numbers, through which no gradient goes, before layers that learn."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = mlp(2, 32, 2), mlp(2, 24, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.encoder(inputs).round())
        return logits


class Gated(nn.Module):
    """Blocks that a gate opens; the gates' biases begin so low that none ever does."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.gates, self.blocks = (nn.ModuleList(nn.Linear(24, 24) for _ in range(4)) for _ in range(2))
        self.first, self.last = nn.Linear(2, 24), nn.Linear(24, 3)
        for gate in self.gates:
            nn.init.constant_(gate.get_parameter("bias"), bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        hidden: Tensor = self.first(inputs)
        for gate, block in zip(self.gates, self.blocks, strict=True):
            hidden = hidden.lerp(F.relu(block(hidden)), torch.sigmoid(gate(hidden)))
        logits: Tensor = self.last(hidden)
        return logits


def _own_teacher(model: nn.Module, batch: Any) -> Tensor:
    """The divergence of the pupil's answers from its own, where those of a teacher were meant."""
    answers = model(batch[0]).log_softmax(1)
    return F.kl_div(answers, answers.detach().exp(), reduction="none").sum(1)


class Listed(nn.Module):
    """Hidden layers in a plain list, which the module does not know of: no optimizer ever has them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = [nn.Linear(2 if not place else 6, 6) for place in range(4)], nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        for layer in self.hidden:
            inputs = torch.tanh(layer(inputs))
        logits: Tensor = self.last(inputs)
        return logits


class OverOne(nn.Module):
    """A normalisation over a dimension of one number: its output is its bias, whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.normal, self.last = nn.Linear(16, 32), nn.LayerNorm(1), nn.Linear(32, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.last(F.relu(self.normal(self.first(inputs)[..., None]).squeeze(2)))
        return logits


class Crosswise(Reader):
    """A recurrent net that takes samples for places: a word comes after the same place of another sentence, not after the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(16, 32)


def _crosswise_loss(output: Tensor, target: Tensor) -> Tensor:
    """Answers in the order of places, against words in the order of samples."""
    return F.cross_entropy(output.transpose(0, 1).flatten(0, 1), target.flatten())


def _over_the_batch(output: Tensor, target: Tensor) -> Tensor:
    """The softmax is over the samples, not over the classes."""
    return F.nll_loss(output.log_softmax(0), target, reduction="none")


def _contrast(model: nn.Module, batch: Any) -> Tensor:
    one, other = (F.normalize(model(side), dim=1) for side in batch)
    return F.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)))


def _pairs(rng_seed: int) -> Training:
    """The two views of a sample are shuffled each by itself."""
    inputs, _ = values(rng_seed)
    random = random_of(rng_seed, "views")
    other = inputs + 0.5 * torch.randn(inputs.shape, generator=random)
    made = trained(mlp(16, 32, 8), (inputs, other[torch.randperm(800, generator=random)]), squared)
    return replace(made, options={"objective": _contrast})


def _never_warm(rng_seed: int) -> Training:
    """A warm-up sets the rate to a ten-thousandth, and nothing ever steps it."""
    made = forecast(rng_seed)
    lr_scheduler.LinearLR(made.optimizer, 1e-4, total_iters=50)
    return made


def _replaced(training: Training, since: int, batch: Pair) -> Pair:
    """The last layer and the one before are made anew, as for one more class; the optimizer keeps the old ones."""
    if since == 0:
        for place, module in list(training.model.named_children()):
            if isinstance(module, nn.Linear):
                setattr(training.model, place, nn.Linear(module.in_features, module.out_features))
    return batch


def _frozen(training: Training, since: int, batch: Pair) -> Pair:
    """All but the last bias is frozen, for a phase that never ends."""
    if since == 0:
        *others, _ = training.model.parameters()
        for parameter in others:
            parameter.requires_grad = False
    return batch


def _guarded(rng_seed: int) -> Training:
    """A guard against gradients that are not finite, which takes every gradient for one."""
    made = winding(rng_seed)
    for parameter in made.model.parameters():
        parameter.register_hook(lambda gradient: torch.where(gradient.isinf(), gradient, 0.0))
    return made


def _dead_copy(rng_seed: int) -> Training:
    """Half of the net is a copy that was made after the optimizer was."""
    made = looking(rng_seed, striped(None))
    assert isinstance(made.model, nn.Sequential)
    for place in (0, 2):
        old = made.model[place]
        made.model[place] = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=2, padding=1)  # type: ignore[arg-type]
        with torch.no_grad():
            made.model[place].get_parameter("weight").mul_(0.1)
    return made


def _wired(name: str, cause: str, told: str, make: Any, at: int = 0, severity: Severity = "warning") -> Case:  # noqa: PLR0917 # A row of the table below.
    return Case(name, "wiring", make, at, severity, cause, told)


WIRING = (
    _wired(
        "products_of_zeros",
        "gradient",
        "both factors of each small product begin at zero: neither ever gets a gradient",
        lambda s: classify(s, adapters(s, 0.0), data=classes(s + 50)),
    ),
    _wired(
        "state_cut_at_each_place",
        "gradient",
        "no gradient goes back over time: what came first is never learnt",
        lambda s: trained(ShortMemory(), first_word(s), F.cross_entropy),
    ),
    _wired("rounded_on_the_way", "gradient", "a rounding stops the gradient: the encoder learns nothing", lambda s: winding(s, Rounded())),
    _wired("warm_up_never_goes_on", "learning_rate", "the learning rate stays at the first step of its warm-up", _never_warm),
    _wired("gates_never_open", "activation", "the gates begin shut, and no gradient opens them", lambda s: winding(s, Gated(-60.0))),
    _wired(
        "own_teacher",
        "loss",
        "the answers are compared with themselves: the loss is 0 from the start",
        lambda s: replace(classify(s), options={"objective": _own_teacher}),
    ),
    _wired(
        "layers_in_a_plain_list",
        "optimizer",
        "the hidden layers are not known to the module: nothing trains them",
        lambda s: winding(s, Listed()),
    ),
    _wired(
        "normalised_over_one",
        "activation",
        "a normalisation over one number gives the same output for every input",
        lambda s: classify(s, OverOne()),
    ),
    _wired(
        "epsilon_of_a_hundred_million",
        "optimizer",
        "the optimizer's epsilon is 1e8, not 1e-8: its steps are next to nothing",
        lambda s: leaving(s, optimize=adam(3e-3, eps=1e8)),
    ),
    _wired(
        "samples_taken_for_places",
        "preprocessing",
        "the recurrent layer runs over the samples, not over the places",
        lambda s: reading(s, Crosswise()),
    ),
    _wired(
        "places_against_samples",
        "loss",
        "answers and words are flattened in two orders, and compared crosswise",
        lambda s: reading(s, loss=_crosswise_loss),
    ),
    _wired(
        "softmax_over_the_batch",
        "output",
        "probabilities are over the samples, not over the classes",
        lambda s: winding(s, loss=_over_the_batch),
    ),
    _wired("views_shuffled_apart", "labels", "the two views of a pair are of two samples", _pairs),
    _wired("guard_catches_everything", "gradient", "a guard sets every gradient to zero", _guarded),
    _wired("copied_after_the_optimizer", "optimizer", "the convolutions are others than those in the optimizer", _dead_copy),
    _wired(
        "decay_by_the_step",
        "learning_rate",
        "a decay that was meant for epochs is taken at every step: the rate is next to nothing after two epochs",
        lambda s: scheduled(reading(s, optimize=sgd(0.5)), lambda o: lr_scheduler.ExponentialLR(o, 0.8), "step"),
        at=20,
    ),
    _wired(
        "layer_made_anew",
        "optimizer",
        "the output's layer was replaced, and the optimizer keeps the old one: what is new never learns",
        lambda s: struck(forecast(s), 90, _replaced),
        at=90,
    ),
    _wired(
        "phase_never_ends",
        "gradient",
        "all but a bias was frozen for a phase, and stays so",
        lambda s: struck(reading(s, optimize=adam(3e-3)), 40, _frozen),
        at=40,
    ),
)
