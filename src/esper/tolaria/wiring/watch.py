"""The first epoch under watch: what the trainer shows of it, and what the checks find there.

Looked at are the steps 1, 2, 3, 4, 8, 16, ... of the epoch, and the validation at its end. Numbers stay on the device until a span ends.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from dataclasses import replace
from typing import TypeVar

from torch import Tensor, nn

from esper.tolaria.determinism import undisturbed
from esper.tolaria.objective import Batch, Loss, Objective, Supervised
from esper.tolaria.pairs import copy_of
from esper.tolaria.training import Training
from esper.tolaria.user_code import raised
from esper.tolaria.validation import Evaluator
from esper.tolaria.wiring import judging
from esper.tolaria.wiring.findings import EXPLANATIONS, Finding
from esper.tolaria.wiring.judging import OutputSeen
from esper.tolaria.wiring.modules import ActivationProbe, Dropouts, is_compiled, on_eval
from esper.tolaria.wiring.outputs import Kept, correlations, differs, guessing, input_seen, joined, keep, output_seen, spread
from esper.tolaria.wiring.parameters import ParameterProbe
from esper.tolaria.wiring.samples import SampleDigests

_MOST_KEPT, _ENOUGH = 8, 32
Asked = TypeVar("Asked")
StepLosses = tuple[Tensor, dict[str, Tensor]]


class Harmless:
    """Looks at a training: what raises there is told, and from then on nothing is looked at. It must not end the training."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self.blind = False

    def ask(self, look: Callable[[], Asked], otherwise: Asked) -> Asked:
        """The result of `look`; `otherwise`, from then on too, where it raises."""
        if self.blind:
            return otherwise
        try:
            return look()
        except Exception as error:
            self.blind = True
            self._training.tell(f"the wiring is looked at no further: {raised(error)}")
            return otherwise


class ValidationSeen:
    """Samples of a whole validation, however it is sorted: up to eight of its batches, evenly spread, as far as it has come."""

    def __init__(self, training: Training, objective: Objective) -> None:
        self._training, self._objective, self._harmless = training, objective, Harmless(training)
        self._count, self._apart = 0, 1
        self.kept: list[Kept] = []

    def objective(self, model: nn.Module, batch: Batch) -> StepLosses:
        """The objective on a validation batch."""
        self._count += 1
        if (self._count - 1) % self._apart or self._harmless.blind:
            return self._objective(model, batch)
        result, output, targets = _watched(self._objective, model, batch)
        self._harmless.ask(lambda: self._add(keep(_inputs_of(batch), output, targets)), None)
        return result

    def _add(self, kept: Kept | None) -> None:
        if kept is None:
            return
        self.kept.append(kept)
        if len(self.kept) >= _MOST_KEPT:
            self.kept, self._apart = self.kept[::2], 2 * self._apart

    @property
    def guessing(self) -> float | None:
        """The validation loss of the best constant output; None where it is not known."""
        return self._harmless.ask(lambda: asked(self._training, self._objective, guessing, self.kept), None)


class FirstEpoch:
    """The first epoch of a training, as far as it has come."""

    def __init__(self, training: Training, objective: Objective) -> None:
        self._training, self._objective = training, objective
        self._parameters = ParameterProbe(training.host.model, training.host.host_parameters(), training.optimizer)
        self._modules = ActivationProbe(training.host.model)
        self._step, self._looking, self._first_gradients = 0, False, list[str]()
        self._rates = [self._now()]
        self._losses: list[float] = []
        self._kept: list[Kept] = []
        self._valid = ValidationSeen(training, objective)
        self._constant: list[Tensor] = []
        self._samples, self._valid_samples = SampleDigests(), SampleDigests()
        self._dropouts, self._validated = 0, False
        self._harmless = Harmless(training)
        self._modes: tuple[list[str], list[str]] = ([], [])

    # While it trains

    def begin_step(self) -> AbstractContextManager[None]:
        """Within, the step's forward and backward passes run; gradients were set to zero."""
        self._step += 1
        self._looking = self._step <= 3 or self._step & (self._step - 1) == 0  # the first three, then powers of two
        self._looking = self._looking and not self._harmless.blind
        if self._step == 2:  # Before the first step nothing has left any.
            self._first_gradients = self._parameters.with_gradient()
        return self._modules.watching() if self._looking else nullcontext()

    def train_objective(self, model: nn.Module, batch: Batch) -> StepLosses:
        """The objective on a training batch."""
        if not self._looking:
            self._harmless.ask(lambda: self._samples.add(_inputs_of(batch)), None)
            return self._objective(model, batch)
        result, output, targets = _watched(self._objective, model, batch)
        self._harmless.ask(lambda: self._look_at(model, batch, output, targets), None)
        return result

    def _look_at(self, model: nn.Module, batch: Batch, output: object, targets: object) -> None:
        self._samples.add(_inputs_of(batch))
        if self._step == 1:
            self._modes = on_eval(model)
        kept = keep(_inputs_of(batch), output, targets)
        if kept is not None:
            self._kept = [*self._kept[-_MOST_KEPT + 1 :], kept]
            if kept.inputs is not None:
                self._constant.append((kept.inputs == kept.inputs[:1]).all())

    def before_step(self) -> None:
        """The gradients are there, and the optimizer's step is next."""
        if self._looking:
            self._harmless.ask(self._parameters.before_step, None)

    def after_step(self) -> None:
        """The optimizer has stepped."""
        if self._looking:
            self._harmless.ask(self._parameters.after_step, None)

    def after_span(self, losses: Sequence[float]) -> list[Finding]:
        """The findings that the first span has shown for certain, and whether the loss explodes in this one."""
        first = not self._losses
        self._losses += losses
        self._rates.append(self._now())
        return self._harmless.ask(lambda: [*(self._at_once() if first else ()), *self._explosion()], [])

    def _at_once(self) -> Iterator[Finding]:
        yield from judging.zero_rates(self._rates[0], scheduled=self._training.scheduler is not None)
        if self._first_gradients:
            yield Finding(
                "gradients-kept", f"{len(self._first_gradients)} parameters have one before the second step", self._first_gradients
            )
        normal, dropout = self._modes
        if normal:
            yield Finding("normalisation-on-eval", "in eval mode in the first step, and no statistics were measured yet", normal)
        if dropout:
            yield Finding("dropout-on-eval", "in eval mode in the first step", dropout)
        kept = joined(self._kept)
        if kept is not None:
            constant = [bool(flag) for flag in self._constant]
            yield from judging.constant_input(constant, targets_differ=differs(kept.targets))
            yield from judging.given_away(correlations(kept) if len(kept.targets) >= 64 and not all(constant) else [])
        seen = self._output_seen()
        if seen is not None:
            yield from judging.output_faults(seen)
            yield from judging.far_off(self._losses[0], seen)

    def _explosion(self) -> Iterator[Finding]:
        self._parameters.settle()
        ratios = self._parameters.update_ratios
        if any(judging.exploded(self._losses, 0.0, ratios)):  # Guessing is asked for only where it matters.
            seen = self._output_seen()
            yield from judging.exploded(self._losses, None if seen is None else seen.guessing, ratios)

    # At its end

    def evaluator(self, evaluator: Evaluator) -> Evaluator:
        """The same, whose validation batches are looked at."""
        return replace(evaluator, watched=self._validate)

    def at_end(self) -> list[Finding]:
        """The findings of the whole epoch, its validation included."""
        found: list[Finding] = self._harmless.ask(lambda: list(self._faults()), [])
        known = {*self._training.counters.wiring, *(finding.check for finding in found)}
        explained = any(EXPLANATIONS[check].severity == "warning" for check in known)
        return [finding for finding in found if finding.check != "guessing" or not explained]

    def _faults(self) -> Iterator[Finding]:
        training, rising = self._training, self._rising
        highest = [max(rates) for rates in zip(*self._rates, strict=True)]
        yield from judging.parameter_faults(self._parameters.rows(self._modules.called, highest))
        planned = training.settings.epochs * self._step
        yield from judging.decays(self._parameters.decay_ratios)
        yield from judging.too_small(self._parameters.update_ratios, planned, rising=rising)
        yield from judging.dead_layers(self._modules.rows())
        yield from self._validation_faults()
        seen = self._output_seen()
        if seen is not None:
            yield from judging.still_guessing(self._losses, seen.guessing, rising=rising)

    @property
    def guessing(self) -> float | None:
        """The validation loss of the best constant output; None where it is not known."""
        return self._valid.guessing

    @property
    def _rising(self) -> bool:
        return any(last > 1.2 * first for first, last in zip(self._rates[0], self._rates[-1], strict=True))

    def _validation_faults(self) -> Iterator[Finding]:
        if self._dropouts:
            yield Finding("dropout-in-validation", f"{self._dropouts} calls of dropout that is on, in the first validation batch")
        train, valid = joined(self._kept), joined(self._valid.kept)
        if train is not None and valid is not None:
            if len(train.targets) >= _ENOUGH and len(valid.targets) >= _ENOUGH and train.targets.dtype == valid.targets.dtype:
                yield from judging.constant_targets(not differs(train.targets), not differs(valid.targets))
            if not self._rising:
                yield from judging.constant_output(
                    spread(valid.output), inputs_differ=differs(valid.inputs), targets_differ=differs(valid.targets)
                )
            if train.inputs is not None and valid.inputs is not None:
                yield from judging.different_inputs(input_seen([train.inputs]), input_seen([valid.inputs]))
        yield from judging.overlap(self._valid_samples.found_in(self._samples), self._valid_samples.count, self._samples.repeated_share())

    def _validate(self, model: nn.Module, batch: Batch) -> StepLosses:
        first, self._validated = not self._validated, True
        self._harmless.ask(lambda: self._valid_samples.add(_inputs_of(batch)), None)
        with Dropouts() if first and not is_compiled(model) else nullcontext() as dropouts:
            result = self._valid.objective(model, batch)
        self._dropouts += 0 if dropouts is None else dropouts.count
        return result

    def _output_seen(self) -> OutputSeen | None:
        return asked(self._training, self._objective, output_seen, self._kept)

    def _now(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for group in self._training.optimizer.param_groups)


def asked(training: Training, objective: Objective, ask: Callable[[Kept, Loss], Asked | None], batches: Sequence[Kept]) -> Asked | None:
    """The answer of a copy of the loss, called where it leaves no trace and records no metric; None where outputs are not known.

    A function that closes over something may count its calls there, and no copy of it is made: it is not asked.
    """
    kept, copied = joined(batches), copy_of(objective)
    if kept is None or not isinstance(copied, Supervised) or getattr(copied.loss, "__closure__", None):
        return None
    with undisturbed(training.device):
        return Context().run(ask, kept, copied.loss)


def _inputs_of(batch: Batch) -> object:
    """The first part of a batch of several."""
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _watched(objective: Objective, model: nn.Module, batch: Batch) -> tuple[StepLosses, object, object]:
    """The objective of a batch, and its output and targets where they are known."""
    if not isinstance(objective, Supervised):
        return objective(model, batch), None, None
    output, targets = objective.output(model, batch)
    return objective.of_output(output, targets), output, targets
