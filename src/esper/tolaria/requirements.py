"""Refusal of a training that cannot mean what it says: a SettingsError of one line: what was expected, what came, what to write
instead.

Only the last two checks run code of the user's: the objective, on the first batches. None changes anything.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import replace
from inspect import Parameter, signature
from itertools import chain
from operator import length_hint

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Dataset, IterableDataset

from esper.errors import DataError, SettingsError
from esper.kasmina.calls import tried, unwrapped
from esper.tolaria.determinism import undisturbed, untouched
from esper.tolaria.objective import Batch, size_of, to_device
from esper.tolaria.training import TrainerSettings
from esper.tolaria.user_code import Noted, named
from esper.tolaria.validation import Evaluator

_BY_STEPS = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)
"""Schedules that torch's documentation steps after every batch."""
_HORIZONS = ("total_steps", "T_max", "total_iters", "step_size", "milestones", "total_size")
"""Attributes of torch's schedulers that count their own steps until the schedule ends or turns."""
_MANY = 10
_LOADER = "torch.utils.data.DataLoader"
_ARGUMENTS = {"training data": "train", "validation data": "valid", "test data": "test"}


def require_model(model: object) -> None:
    """Raises SettingsError for what is no module, has shapes that are not known yet, or no parameter to train."""
    if not isinstance(model, nn.Module):
        hint = f": give an instance, {model.__name__}(...)" if isinstance(model, type) else ": fit(model, train, valid, ...)"
        raise SettingsError(f"model: expected a torch.nn.Module, got {named(model)}{hint}")
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if is_lazy(tensor):
            raise SettingsError(
                f"model: expected parameters whose shapes are known, got {name!r}, which is not initialised: run the model once before, "
                "model(inputs), then make its optimizer"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        found = "none" if next(model.parameters(), None) is None else "none that requires a gradient"
        raise SettingsError(f"model: expected parameters to train, got {named(model)} with {found}")


def require_function(name: str, function: object) -> None:
    """Raises SettingsError for a loss, metric or objective that cannot be called with tensors: a class, a name."""
    if isinstance(function, type):
        raise SettingsError(f"{name}: expected a function, got {named(function)}: give an instance, {function.__name__}()")
    if not callable(function):
        raise SettingsError(f"{name}: expected a function, got {named(function)}")


def require_optimizer(model: nn.Module, optimizer: object) -> None:
    """Raises SettingsError for what is no optimizer, needs a closure, or trains no parameter of `model`."""
    if not isinstance(optimizer, Optimizer):
        kind = optimizer.__name__ if isinstance(optimizer, type) else "torch.optim.Adam"
        raise SettingsError(
            f"optimizer: expected an optimizer of the model's parameters, got {named(optimizer)}: {kind}(model.parameters(), lr=...)"
        )
    kind, closure = type(optimizer).__name__, signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise SettingsError(
            f"optimizer: expected one whose step() needs no closure, got {kind}, which computes the loss several times a step: "
            "torch.optim.Adam(model.parameters(), lr=...), for example"
        )
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if own.isdisjoint(map(id, trained)):
        raise SettingsError(
            f"optimizer: expected one over the model's parameters, got {kind} over {len(trained)} tensors of which the model trains none: "
            f"make it after the model was copied, loaded or moved, {kind}(model.parameters(), ...)"
        )


def require_scheduler(scheduler: object, optimizer: Optimizer, settings: TrainerSettings, steps: int) -> None:
    """Raises SettingsError for a scheduler of another optimizer, one that cannot be stepped as asked, or made for the other way.

    `steps`: optimizer steps per epoch.
    """
    if isinstance(scheduler, type) or not (hasattr(scheduler, "step") and hasattr(scheduler, "state_dict")):
        hint = f": give an instance, {scheduler.__name__}(optimizer, ...)" if isinstance(scheduler, type) else ""
        raise SettingsError(f"scheduler: expected a scheduler of the optimizer, got {named(scheduler)}{hint}")
    kind, by_step = type(scheduler).__name__, settings.scheduler_every == "step"
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise SettingsError(
            f"scheduler: expected one of the optimizer that trains, got {kind} of another: {kind}(optimizer, ...) of that one"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        if by_step:
            raise SettingsError(f'scheduler_every: expected "epoch" with {kind}, which needs the validation loss, got "step"')
        return
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    parameters = signature(scheduler.step).parameters.values()
    wanted = [one for one in parameters if one.default is Parameter.empty and one.kind not in variadic]
    if wanted:
        raise SettingsError(
            f"expected a scheduler whose step() can be called without arguments, {kind} wants {', '.join(map(str, wanted))}"
        )
    _require_pace(scheduler, settings, steps)


def _require_pace(scheduler: object, settings: TrainerSettings, steps: int) -> None:
    """Raises SettingsError for a schedule of optimizer steps that would be stepped by epochs, and for one that ends too early."""
    kind, epochs = type(scheduler).__name__, settings.epochs
    planned = epochs * steps
    calls = epochs if settings.scheduler_every == "epoch" else planned
    if isinstance(scheduler, lr_scheduler.OneCycleLR) and scheduler.total_steps < calls:
        most = scheduler.total_steps
        raise SettingsError(f"scheduler: expected {calls} steps for {epochs} epochs, got {kind} of {most}: total_steps={calls}")
    if settings.scheduler_every == "step" or steps == 1:
        return
    horizon = max((length for part in _parts(scheduler) for length in _horizons(part)), default=0)
    by_nature = isinstance(scheduler, _BY_STEPS) and horizon > epochs
    # One step an epoch more or less is another drop_last; where an epoch has few steps it would be another number.
    by_length = abs(horizon - planned) <= (epochs if steps >= _MANY else 0)
    if by_nature or by_length or _ends_at(scheduler, planned, epochs):
        length = horizon if by_nature or by_length else planned
        raise SettingsError(
            f"scheduler: expected a schedule of {epochs} epochs, got {kind} of {length:g} steps, which would be stepped once an epoch: "
            'scheduler_every="step"'
        )


def _parts(scheduler: object) -> Iterator[object]:
    """`scheduler` and those that it is made of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)


def _horizons(scheduler: object) -> Iterator[float]:
    for name in _HORIZONS:
        length = getattr(scheduler, name, None)
        values = length if isinstance(length, Iterable) else (length,)  # Milestones are a map or a list.
        yield from (value for value in values if isinstance(value, int | float))


def _ends_at(scheduler: object, planned: int, epochs: int) -> bool:
    """True where a LambdaLR is 0 from `planned` of its steps on, and not an epoch before: a warmup and decay made for steps."""
    rates = scheduler.lr_lambdas if isinstance(scheduler, lr_scheduler.LambdaLR) else ()
    return any(abs(rate(planned)) < 1e-9 < min(abs(rate(epochs)), abs(rate(planned - planned // epochs))) for rate in rates)


def require_batches(name: str, batches: object, *, endless: bool = False) -> None:
    """Raises SettingsError for what is no data that can be iterated once an epoch, in batches; `endless` allows a stream."""
    got, make = f"{name}: expected batches that can be iterated once an epoch, got {named(batches)}", f"{_LOADER}(dataset, batch_size=64)"
    if batches is None:
        more = "; some of the training data, if there are no others (torch.utils.data.random_split)" if name == "valid" else ""
        raise SettingsError(f"{got}: {make}{more}")
    if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
        raise SettingsError(f"{got}, which has single samples: {make}")
    if isinstance(batches, Tensor) or type(batches).__module__ == "numpy":
        raise SettingsError(f"{got}: {_LOADER}(torch.utils.data.TensorDataset(inputs, targets), batch_size=64), or a list of batches")
    if isinstance(batches, tuple) and all(isinstance(part, Tensor) for part in batches):
        raise SettingsError(f"{got} of tensors, which is one batch: [(inputs, targets)], or {_LOADER} of a TensorDataset")
    if isinstance(batches, str | bytes | Mapping | type | nn.Module) or not isinstance(batches, Iterable):
        raise SettingsError(f"{got}: {make}, or a list of batches")
    if isinstance(batches, Iterator) and not endless:
        hint = "give a loader, or epoch_steps= for a stream" if name == "train" else "give a loader or a list"
        raise SettingsError(
            f"{name}: expected data that can be iterated once an epoch, got a {type(batches).__name__}, which ends with the first: {hint}"
        )
    if isinstance(batches, Sized) and length_hint(batches, -1) == 0:
        raise SettingsError(f"{name}: expected at least one batch, got {named(batches)} with none")


def optimizer_steps(train: object, settings: TrainerSettings) -> int | None:
    """Optimizer steps per epoch, as far as the length of `train` is known before; None for a stream without `epoch_steps`."""
    batches = length_hint(train, 0) if isinstance(train, Sized) else 0
    known = (math.ceil(batches / settings.accumulate), settings.epoch_steps)
    return min((steps for steps in known if steps), default=None)


def require_train(train: object, settings: TrainerSettings) -> int:
    """Optimizer steps per epoch. Raises SettingsError as `require_batches`, and for data of which nothing says when an epoch ends."""
    require_batches("train", train, endless=settings.epoch_steps is not None)
    steps = optimizer_steps(train, settings)
    if steps is None:
        raise SettingsError(
            f"train: expected training data with a length, or epoch_steps=, got {named(train)} with neither: nothing says that it "
            "ends; an epoch ends after epoch_steps optimizer steps or with the data, whichever is first"
        )
    return steps


def require_evaluable(evaluator: Evaluator) -> None:
    """Measures the first validation batch, so that an objective which cannot be measured fails before there is a run.

    Raises DataError or SettingsError as the objective does, and what code of the user's raises. Leaves random state as it was.
    """
    with _before_the_first_step(evaluator):
        replace(evaluator, batches=[_first(evaluator)]).losses()


def require_trains(evaluator: Evaluator) -> None:
    """Measures the first batch as a step does, in train mode and with gradients, so that one which cannot be trained on fails before a run.

    Raises as `require_evaluable`, and leaves no trace in model, data and random state. An iterator is not asked: its batch would be lost.
    """
    if isinstance(evaluator.batches, Iterator):
        return
    objective, model, device = evaluator.objective, evaluator.model, evaluator.device
    with _before_the_first_step(evaluator):
        first = _first(evaluator)
        with Noted(f"on batch 1 of the {evaluator.name}"), undisturbed(device), untouched(objective), tried(model):
            objective(unwrapped(model), to_device(first, device))


def _first(evaluator: Evaluator) -> Batch:
    """The first batch, of at least one sample."""
    batches, device = evaluator.batches, evaluator.device
    with Noted(f"raised by the {evaluator.name}"), undisturbed(device), untouched(batches):
        first = next(iter(batches), None)
    if first is None:
        raise DataError(f"expected at least one batch, got {named(batches)} with none")
    size_of(first)
    return first


@contextmanager
def _before_the_first_step(evaluator: Evaluator) -> Iterator[None]:
    """Within, malformed data are named by their argument, and what the user's code raises by the time."""
    try:
        with Noted("before the first step"):
            yield
    except DataError as error:
        raise DataError(f"{_ARGUMENTS[evaluator.name]}: {error}") from error
