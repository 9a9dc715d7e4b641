"""Faults, put into real trainings: into batches, optimizer, gradients, weights or the meter, never into the recorded numbers.

A fault sees every batch before its optimizer step, counted from 1 over the whole run, and may change the batch it passes on and the state
of model and optimizer. How severe it is and where exactly it strikes is drawn from its own generator, from the ranges written here; the
ranges were chosen so that the fault has an effect at all in the trainings it is for (a scale that batch normalisation takes out again is
no fault), before any detector was judged by them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from trainings import Parts, Training

from esper.tolaria.objective import Batch, Batches, Objective

Pair = tuple[Tensor, Tensor]


class Fault:
    """No fault: every kind changes what it needs to. `at` is the first step that is affected.

    detector: what is to find it. horizon: within so many steps, after which it counts as missed.
    """

    detector, horizon = "", 0

    def __init__(self, training: Training, random: np.random.Generator, at: int) -> None:
        self.training, self.random, self.at = training, random, at
        self.draw()

    def draw(self) -> None:
        """Draws how severe the fault will be."""

    def strike(self, step: int, batch: Pair) -> Pair:
        """The batch to train on at `step`, which is `at` or later."""
        del step
        return batch

    def measured(self, losses: Tensor) -> Tensor:
        """The losses that the meter shows and the step minimises."""
        return losses

    # What several kinds need

    def between(self, low: float, high: float) -> float:
        """A number between the two, evenly on a logarithmic scale."""
        return math.exp(self.random.uniform(math.log(low), math.log(high)))

    def one_of(self, *choices: str) -> str:
        """One of them, evenly."""
        return choices[int(self.random.integers(len(choices)))]

    def mislabel(self, batch: Pair, share: float) -> Pair:
        """The batch with wrong answers, each sample's with a probability of `share`."""
        inputs, targets = batch
        count = int(self.random.binomial(len(targets), share))
        chosen = torch.from_numpy(self.random.permutation(len(targets))[:count])
        targets = targets.clone()
        if targets.dtype == torch.int64:
            targets[chosen] = (targets[chosen] + torch.from_numpy(self.random.integers(1, 10, count))) % 10
        else:
            targets[chosen] += torch.from_numpy(self.random.normal(0, 3, (count, 1)).astype(np.float32))
        return inputs, targets

    def noise(self, inputs: Tensor) -> Tensor:
        """Normal noise of the inputs' shape and scale."""
        return inputs.std() * torch.from_numpy(self.random.normal(0, 1, inputs.shape).astype(np.float32))

    def set_learning_rate(self, rate: float) -> None:
        """Every group's."""
        for group in self.training.optimizer.param_groups:
            group["lr"] = rate


class LossSpike(Fault):
    """One batch is mislabelled (60 to 100 % of it), or its inputs are noise, 2 to 6 times as large as they should be."""

    detector, horizon = "spike", 20

    def strike(self, step: int, batch: Pair) -> Pair:
        if step != self.at:
            return batch
        if self.one_of("labels", "inputs") == "labels":
            return self.mislabel(batch, self.random.uniform(0.6, 1.0))
        return self.noise(batch[0]) * self.between(2, 6), batch[1]


class Nan(Fault):
    """One number of one batch is not a number."""

    detector, horizon = "nonfinite", 20

    def strike(self, step: int, batch: Pair) -> Pair:
        if step != self.at:
            return batch
        inputs = batch[0].clone()
        inputs[0, 0] = math.nan
        return inputs, batch[1]


class Divergence(Fault):
    """The learning rate rises 30 to 200 times within 5 to 100 steps, and stays there."""

    detector, horizon = "divergence", 150

    def draw(self) -> None:
        self.factor, self.ramp, self.before = self.between(30, 200), self.between(5, 100), 0.0

    def strike(self, step: int, batch: Pair) -> Pair:
        if step == self.at:
            self.before = self.training.optimizer.param_groups[0]["lr"]
        self.set_learning_rate(self.before * self.factor ** min(1.0, (step - self.at + 1) / self.ramp))
        return batch


class Scaled(Fault):
    """All gradients are multiplied by a factor that is reached within `ramp` steps, and stays."""

    factor, ramp = 1.0, 1.0

    def draw(self) -> None:
        self.now = 1.0
        for parameter in self.training.model.parameters():
            parameter.register_hook(lambda gradient: gradient * self.now)

    def strike(self, step: int, batch: Pair) -> Pair:
        self.now = self.factor ** min(1.0, (step - self.at + 1) / self.ramp)
        return batch


class GradientExplosion(Scaled):
    """Gradients are 30 to 1,000 times too large from one step on."""

    detector, horizon = "explosion", 40

    def draw(self) -> None:
        super().draw()
        self.factor = self.between(30, 1000)


class VanishingGradients(Scaled):
    """Gradients shrink to a hundredth or a ten-thousandth within 1 to 100 steps; or, of tanh, the first layer is saturated at once."""

    detector, horizon = "vanishing", 200

    def draw(self) -> None:
        super().draw()
        self.factor, self.ramp = self.between(1e-4, 1e-2), self.between(1, 100)
        self.saturates = isinstance(self.training.model, nn.Sequential) and isinstance(self.training.model[1], nn.Tanh)
        self.saturates = self.saturates and len(self.training.model) > 3 and self.one_of("scaled", "saturated") == "saturated"

    def strike(self, step: int, batch: Pair) -> Pair:
        if not self.saturates:
            return super().strike(step, batch)
        if step == self.at:
            with torch.no_grad():
                for parameter in self.training.model[0].parameters():  # type: ignore[index] # a Sequential, as drawn
                    parameter.mul_(self.between(30, 100))
        return batch


class DeadUnits(Fault):
    """The biases of 50 to 90 % of a layer's units are pushed down by 20 within 1 to 60 steps, so that nothing passes the activation."""

    detector, horizon = "dead", 150

    def draw(self) -> None:
        layer = self.training.model.get_submodule(self.one_of(*self.training.affine))
        bias = layer.bias
        assert isinstance(bias, Tensor)
        count = max(1, math.ceil(self.random.uniform(0.5, 0.9) * len(bias)))
        self.bias, self.ramp = bias, round(self.between(1, 60))
        self.chosen = torch.from_numpy(self.random.permutation(len(bias))[:count])

    def strike(self, step: int, batch: Pair) -> Pair:
        if step < self.at + self.ramp:
            with torch.no_grad():
                self.bias[self.chosen] -= 20.0 / self.ramp
        return batch


class StuckValue(Fault):
    """The loader serves one batch for ever while the optimizer is frozen; or the meter shows one loss for ever."""

    detector, horizon = "stuck", 60

    def draw(self) -> None:
        noisy = any(isinstance(module, nn.Dropout) for module in self.training.model.modules())
        growing = self.training.settings.get("policy.max_germinations") != 0
        self.kind = "meter" if noisy or growing else self.one_of("frozen", "meter")
        self.batch: Pair | None = None
        self.shown: Tensor | None = None
        self.struck = False

    def strike(self, step: int, batch: Pair) -> Pair:
        self.struck = step >= self.at
        if self.kind == "meter":
            return batch
        self.set_learning_rate(0.0)
        self.batch = self.batch or batch
        return self.batch

    def measured(self, losses: Tensor) -> Tensor:
        if not self.struck or self.kind != "meter":
            return losses
        if self.shown is None:
            self.shown = losses.detach().mean()
        return losses.mean() - losses.mean().detach() + self.shown


class StepDrift(Fault):
    """From one step on 30 to 60 % of the labels are wrong, or the inputs are drowned in noise, or they lose their scale."""

    detector, horizon = "drift", 150

    def draw(self) -> None:
        normalised = any(isinstance(module, nn.BatchNorm2d) for module in self.training.model.modules())
        self.kind = self.one_of("labels", "noise") if normalised else self.one_of("labels", "noise", "scale")
        self.severity, self.ramp = self.random.uniform(), 1.0

    def strike(self, step: int, batch: Pair) -> Pair:
        reached = min(1.0, (step - self.at + 1) / self.ramp)
        if self.kind == "labels":
            return self.mislabel(batch, reached * (0.3 + 0.3 * self.severity))
        inputs, targets = batch
        if self.kind == "noise":
            return inputs + reached * (1 + self.severity) * self.noise(inputs), targets
        return inputs * (1 - reached * (0.7 + 0.25 * self.severity)), targets


class SlowDrift(StepDrift):
    """The same, reached within 300 to 500 steps."""

    detector, horizon = "drift", 650

    def draw(self) -> None:
        super().draw()
        self.ramp = self.between(300, 500)


class Oscillation(Fault):
    """The learning rate is driven to the edge of stability again and again: raised by 10 to 25 % a step while the loss bears it, and put
    back to a tenth of where it broke when the loss has risen 4 to 8 times, until that has healed."""

    detector, horizon = "oscillation", 300

    def draw(self) -> None:
        self.growth, self.bears = 1 + self.random.uniform(0.1, 0.25), self.random.uniform(4.0, 8.0)
        self.rate = self.smooth = self.reference = math.nan
        self.healing = 0

    def strike(self, step: int, batch: Pair) -> Pair:
        if step == self.at:
            self.rate, self.reference = self.training.optimizer.param_groups[0]["lr"], self.smooth
        if self.healing:
            self.healing = 0 if self.smooth < 1.2 * self.reference else self.healing - 1
            if not self.healing:
                self.reference = max(self.reference, self.smooth)
        elif self.smooth > self.bears * self.reference:
            self.rate, self.healing = self.rate / 10, 40
        else:
            self.rate *= self.growth
        self.set_learning_rate(self.rate)
        return batch

    def measured(self, losses: Tensor) -> Tensor:
        loss = float(losses.detach().mean())
        weight = 0.5 if math.isfinite(self.reference) else 0.1
        self.smooth = loss if math.isnan(self.smooth) else (1 - weight) * self.smooth + weight * loss
        return losses


FAULTS: dict[str, type[Fault]] = {
    "nan": Nan,
    "loss_spike": LossSpike,
    "divergence": Divergence,
    "gradient_explosion": GradientExplosion,
    "vanishing_gradients": VanishingGradients,
    "dead_units": DeadUnits,
    "stuck_value": StuckValue,
    "step_drift": StepDrift,
    "slow_drift": SlowDrift,
    "oscillation": Oscillation,
}


@dataclass(frozen=True)
class FaultyObjective:
    """The training's objective with what the fault makes of its losses."""

    inner: Objective
    fault: Fault

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses and metrics of the batch; only while training: a validation is measured as it is."""
        losses, metrics = self.inner(model, batch)
        return (self.fault.measured(losses) if model.training else losses), metrics


@dataclass
class FaultyBatches:
    """The training's batches, the fault's from its step on."""

    inner: Batches
    fault: Fault
    step: int = 0

    def __len__(self) -> int:
        assert isinstance(self.inner, Parts) or hasattr(self.inner, "__len__")
        return len(self.inner)  # type: ignore[arg-type] # every loader here knows its length

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.inner:
            self.step += 1
            assert isinstance(batch, tuple)
            yield self.fault.strike(self.step, batch) if self.step >= self.fault.at else batch


def fits(kind: str, training: Training) -> bool:
    """False for a fault that has no effect there: no unit of a tanh dies."""
    return kind != "dead_units" or bool(training.affine)


def with_fault(training: Training, kind: str, rng_seed: int) -> tuple[Training, int]:
    """The training with the fault in it, as long as it takes to be found, and the step at which it strikes: after 40 to 60 % of it."""
    random = np.random.default_rng([rng_seed, list(FAULTS).index(kind)])
    at = round(training.steps * random.uniform(0.4, 0.6))
    fault = FAULTS[kind](training, random, at)
    epochs = math.ceil((at + fault.horizon) / training.epoch_steps)
    return _faulty(replace(training, epochs=epochs), fault), at


def _faulty(training: Training, fault: Fault) -> Training:
    return replace(training, train=FaultyBatches(training.train, fault), objective=FaultyObjective(training.objective, fault))
