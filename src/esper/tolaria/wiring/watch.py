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
        self._valid: list[Kept] = []
        self._constant: list[Tensor] = []
        self._samples, self._valid_samples = SampleDigests(), SampleDigests()
        self._dropouts = self._valid_batches = 0
        self._blind = False
        self._modes: tuple[list[str], list[str]] = ([], [])

    # While it trains

    def begin_step(self) -> AbstractContextManager[None]:
        """Within, the step's forward and backward passes run; gradients were set to zero."""
        self._step += 1
        self._looking = self._step <= 3 or self._step & (self._step - 1) == 0  # the first three, then powers of two
        self._looking = self._looking and not self._blind
        if self._step == 2:  # Before the first step nothing has left any.
            self._first_gradients = self._parameters.with_gradient()
        return self._modules.watching() if self._looking else nullcontext()

    def train_objective(self, model: nn.Module, batch: Batch) -> StepLosses:
        """The objective on a training batch."""
        if not self._looking:
            self._harmless(lambda: self._samples.add(_inputs_of(batch)), None)
            return self._objective(model, batch)
        result, output, targets = _watched(self._objective, model, batch)
        self._harmless(lambda: self._look_at(model, batch, output, targets), None)
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
            self._harmless(self._parameters.before_step, None)

    def after_step(self) -> None:
        """The optimizer has stepped."""
        if self._looking:
            self._harmless(self._parameters.after_step, None)

    def after_span(self, losses: Sequence[float]) -> list[Finding]:
        """The findings that the first span has shown for certain, and whether the loss explodes in this one."""
        first = not self._losses
        self._losses += losses
        self._rates.append(self._now())
        return self._harmless(lambda: [*(self._at_once() if first else ()), *self._explosion()], [])

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
        found: list[Finding] = self._harmless(lambda: list(self._faults()), [])
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
        return self._harmless(lambda: self._asked(guessing, self._valid), None)

    @property
    def _rising(self) -> bool:
        return any(last > 1.2 * first for first, last in zip(self._rates[0], self._rates[-1], strict=True))

    def _validation_faults(self) -> Iterator[Finding]:
        if self._dropouts:
            yield Finding("dropout-in-validation", f"{self._dropouts} calls of dropout that is on, in the first validation batch")
        train, valid = joined(self._kept), joined(self._valid)
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
        first = self._valid_batches == 0
        self._valid_batches += 1
        self._harmless(lambda: self._valid_samples.add(_inputs_of(batch)), None)
        if self._valid_batches > _MOST_KEPT:
            return self._objective(model, batch)
        with Dropouts() if first and not is_compiled(model) else nullcontext() as dropouts:
            result, output, targets = _watched(self._objective, model, batch)
        self._dropouts += 0 if dropouts is None else dropouts.count
        kept = self._harmless(lambda: keep(_inputs_of(batch), output, targets), None)
        if kept is not None:
            self._valid.append(kept)
        return result

    def _harmless(self, look: Callable[[], Asked], otherwise: Asked) -> Asked:
        """The result of `look`; `otherwise`, from then on too, where it raises: what looks at a training must not end it."""
        if self._blind:
            return otherwise
        try:
            return look()
        except Exception as error:
            self._blind = True
            self._training.tell(f"the wiring is looked at no further: {raised(error)}")
            return otherwise

    def _output_seen(self) -> OutputSeen | None:
        return self._asked(output_seen, self._kept)

    def _asked(self, ask: Callable[[Kept, Loss], Asked | None], batches: Sequence[Kept]) -> Asked | None:
        """The answer of a copy of the loss, called where it leaves no trace and records no metric; None where outputs are not known.

        A function that closes over something may count its calls there, and no copy of it is made: it is not asked.
        """
        kept, objective = joined(batches), copy_of(self._objective)
        if kept is None or not isinstance(objective, Supervised) or getattr(objective.loss, "__closure__", None):
            return None
        with undisturbed(self._training.device):
            return Context().run(ask, kept, objective.loss)

    def _now(self) -> tuple[float, ...]:
        return tuple(float(group["lr"]) for group in self._training.optimizer.param_groups)


def _inputs_of(batch: Batch) -> object:
    """The first part of a batch of several."""
    return batch[0] if isinstance(batch, tuple | list) and batch else batch


def _watched(objective: Objective, model: nn.Module, batch: Batch) -> tuple[StepLosses, object, object]:
    """The objective of a batch, and its output and targets where they are known."""
    if not isinstance(objective, Supervised):
        return objective(model, batch), None, None
    output, targets = objective.output(model, batch)
    return objective.of_output(output, targets), output, targets
