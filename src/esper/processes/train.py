"""A training process: a recipe and settings in, a run in the log out. Here the parts meet: log, host, policy, trainer.

However it ends, the log says how: RunFinished, RunFailed, or nothing at all where the run was interrupted and can be resumed.
"""

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from inspect import Parameter, signature
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from esper.errors import DataError, LogError, SettingsError
from esper.events import codec
from esper.events.envelope import Moment, Record, RunId
from esper.events.kinds.lifecycle import SeedEvaluated
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, RunFinished, RunStarted
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.events.topics import LIFECYCLE, RUN
from esper.kasmina.blueprints import Blueprint
from esper.kasmina.host import Host, SeedOptimizer
from esper.kasmina.kernels import KernelCache, KernelCompiler
from esper.kasmina.site_selection import Sites, find
from esper.kasmina.slots import sizes_at
from esper.oona.catch_up import DivergedError, catch_up
from esper.oona.contract import Log, records_of
from esper.oona.directory import Directory, new_run_id
from esper.oona.emitter import Emitter
from esper.oona.last_words import FailureKind
from esper.oona.run_log import RunLog
from esper.processes.measuring import measuring
from esper.processes.settings import Settings
from esper.tamiyo.policy import decide
from esper.tolaria import environment
from esper.tolaria.adaptation import AdaptationStep, Policy
from esper.tolaria.checkpoint_files import verify_checkpoint
from esper.tolaria.checkpointer import Checkpointer
from esper.tolaria.determinism import determinism_settings, deterministic
from esper.tolaria.objective import Batches, Objective
from esper.tolaria.seed_evaluator import SeedEvaluator
from esper.tolaria.snapshots import Scheduler
from esper.tolaria.trainer import Interrupted, Trainer, TrainingResult, UnstableError, fresh_trainer_state
from esper.tolaria.trainer_state import Evaluations
from esper.tolaria.validation import Evaluator


@dataclass(frozen=True)
class Recipe:
    """What only code can give a training: the model with its optimizer, the data, the objective.

    `sites` and `policy` replace what the settings say; `test` is evaluated once, at the end.
    """

    task: str
    model: nn.Module
    optimizer: Optimizer
    train: Batches
    valid: Batches
    objective: Objective
    test: Batches | None = None
    scheduler: Scheduler | None = None
    sites: str | type[nn.Module] | Callable[[str, nn.Module], bool] | None = None
    policy: Policy | None = None
    seed_optimizer: SeedOptimizer | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True)
class Trained:
    """A run that came to its end: its id, the host with what has grown in it, and the metrics that RunFinished has."""

    run: RunId
    host: Host
    metrics: Mapping[str, float]


def fresh_run_id() -> RunId:
    """The id of a run that begins now."""
    return new_run_id(datetime.now(UTC), os.urandom(10))


def train(recipe: Recipe, settings: Settings, directory: Directory, run: RunId) -> Trained:
    """Trains `recipe` as the new run `run`. Raises Interrupted when stopped by a signal; whatever else is raised, the log has RunFailed."""
    # Before the run exists: what cannot work leaves nothing behind.
    _require_growth(recipe, settings)
    _require_scheduler(recipe.scheduler)
    if isinstance(recipe.train, Iterator) and settings.trainer.epoch_steps is None:
        raise SettingsError(
            f"expected training data that can be iterated once an epoch, got a {type(recipe.train).__name__}, which ends with the first: "
            "give a loader, or epoch_steps= for a stream"
        )
    with directory.create(run) as log:
        return _conduct(recipe, settings, directory, log, None)


def resume(recipe: Recipe, settings: Settings, directory: Directory, run: RunId) -> Trained:
    """Goes on with `run` from its newest whole checkpoint, catching up with what its log already has. Raises as `train` does.

    One that is missing or damaged is passed over, and RunResumed says so: what stood in it is trained again. Without any whole one the
    run begins again, from the untrained model that `recipe` has.
    """
    if isinstance(recipe.train, Iterator):
        raise SettingsError(
            f"expected training data that begin anew with every epoch, got a {type(recipe.train).__name__}: where it stands in its data "
            "is not known, so that a resumed run would see others"
        )
    with directory.resume(run) as log:
        return _conduct(recipe, settings, directory, log, newest_whole_checkpoint(log, directory.checkpoints(run)))


class Newest(NamedTuple):
    """The newest checkpoint with whole files, the moment when it was said, None where there is none; what is wrong with newer ones."""

    saved: CheckpointSaved | None = None
    moment: Moment | None = None
    problems: tuple[str, ...] = ()


def newest_whole_checkpoint(log: Log, folder: Path) -> Newest:
    """The checkpoint of `log` that a resume goes back to, its files in `folder` looked at, the newest first."""
    problems: list[str] = []
    for record in kept_checkpoints(log):
        event = codec.decode(record)
        assert isinstance(event, CheckpointSaved)
        try:
            verify_checkpoint(folder, event.checkpoint, event.digest)
        except DataError as error:
            problems.append(str(error))
        else:
            return Newest(event, record.moment, tuple(problems))
    return Newest(problems=tuple(problems))


def kept_checkpoints(log: Log) -> list[Record]:
    """The CheckpointSaved of every checkpoint that was not pruned, the newest first."""
    saved: dict[str, Record] = {}
    for record in records_of(log, frozenset({RUN})):
        if record.type == CheckpointSaved.KIND:
            event = codec.decode(record)
            assert isinstance(event, CheckpointSaved)
            saved[event.checkpoint] = record
        elif record.type == CheckpointPruned.KIND:
            pruned = codec.decode(record)
            assert isinstance(pruned, CheckpointPruned)
            saved.pop(pruned.checkpoint, None)
    return sorted(saved.values(), key=lambda record: record.moment, reverse=True)


def evaluations_in(log: Log) -> Evaluations:
    """The id of every SeedEvaluated in `log`."""
    found: Evaluations = {}
    for record in records_of(log, frozenset({LIFECYCLE})):
        if record.type == SeedEvaluated.KIND:
            event = codec.decode(record)
            assert isinstance(event, SeedEvaluated)
            found[event.site, event.seed, record.epoch] = record.id
    return found


def started(log: Log) -> RunStarted:
    """How the run began. Raises DataError where the log holds no RunStarted."""
    for record in records_of(log, frozenset({RUN})):
        if record.type == RunStarted.KIND:
            event = codec.decode(record)
            assert isinstance(event, RunStarted)
            return event
    raise DataError("the log holds no RunStarted: the run was interrupted before it began; start it again")


def _conduct(recipe: Recipe, settings: Settings, directory: Directory, log: RunLog, newest: Newest | None) -> Trained:
    saved, moment, problems = newest or Newest()
    ahead = catch_up(log, moment, None if saved is None else saved.checkpoint) if log.heads().moment > 0 else None
    with ExitStack() as stack:
        stack.enter_context(deterministic(recipe.device, settings.trainer.threads))
        emitter = stack.enter_context(Emitter(log, log.run, clock=lambda: datetime.now(UTC), catch_up=ahead))
        stop = stack.enter_context(_stopped_by_signals())
        work = _Work(recipe, settings, directory, log.run, emitter=emitter, stop=stop)
        stack.callback(work.close)
        stack.enter_context(measuring(log.run, work.measured))
        try:
            start = work.manifest()
            if ahead is not None:
                ahead.compare_start(start)
                ahead.environment_changes += problems
            if saved is None:
                work.trainer.start(start)
            else:
                work.trainer.resume(saved.checkpoint, saved.digest, evaluations_in(log))
            work.begun = True
            finished = work.finish(work.tested(work.trainer.train()))
        except Interrupted:
            work.pause()
            raise
        except BaseException as error:
            work.fail(error)
            raise
        return work.seal(finished)


class _Work:
    """The parts of one training, put together."""

    def __init__(
        self, recipe: Recipe, settings: Settings, directory: Directory, run: RunId, *, emitter: Emitter, stop: Callable[[], bool]
    ) -> None:
        self._recipe, self._settings, self._emitter, self._run = recipe, settings, emitter, run
        trainer_state = self._trainer_state = fresh_trainer_state()
        policy = settings.policy
        self._compiler = KernelCompiler(KernelCache(directory.path / ".kernels"))
        host = self.host = _host(recipe, settings)
        self.begun = self._ended = False
        evaluator = Evaluator(recipe.model, recipe.valid, recipe.objective, recipe.device)
        adaptation = AdaptationStep(
            host=host,
            sink=emitter,
            policy=recipe.policy or (lambda state, evidence: decide(state, evidence, policy)),
            schedule=policy,
            embargo=settings.gate.embargo,
            compiler=self._compiler,
            trainer_state=trainer_state,
        )
        checkpointer = Checkpointer(
            directory.checkpoints(run),
            host=host,
            optimizer=recipe.optimizer,
            scheduler=recipe.scheduler,
            sink=emitter,
            trainer_state=trainer_state,
            keep=settings.trainer.keep_checkpoints,
            device=recipe.device,
        )
        self.trainer = Trainer(
            host=host,
            optimizer=recipe.optimizer,
            scheduler=recipe.scheduler,
            train=recipe.train,
            objective=recipe.objective,
            evaluator=evaluator,
            sink=emitter,
            adaptation=adaptation,
            checkpointer=checkpointer,
            seed_evaluator=SeedEvaluator(host=host, evaluator=evaluator, trainer_state=trainer_state, sink=emitter, schedule=policy),
            trainer_state=trainer_state,
            settings=settings.trainer,
            schedule=policy,
            gate=settings.gate,
            device=recipe.device,
            stop=stop,
        )

    def manifest(self) -> RunStarted:
        """What RunStarted says."""
        recipe, settings = self._recipe, self._settings
        return RunStarted(
            task=recipe.task,
            settings=settings.named(),
            code=environment.code(),
            packages=environment.packages(),
            data=tuple(
                environment.fingerprint(name, data)
                for name, data in (("train", recipe.train), ("valid", recipe.valid), ("test", recipe.test))
                if data is not None
            ),
            rng_seed=settings.trainer.rng_seed,
            determinism=determinism_settings(settings.trainer.digest),
            hardware=environment.hardware(recipe.device),
            sites=self.host.sites,
            parameters=self.host.parameters(),
            epochs=settings.trainer.epochs,
        )

    def measured(self, event: CustomMetricRecorded) -> None:
        """Records a metric of the user's own; not what is measured while data are read for the manifest, before the run begins."""
        if self.begun:
            counters = self._trainer_state.counters
            self._emitter.measure(CustomMetricRecorded, lambda: event, epoch=counters.epoch, step=counters.step)

    def tested(self, outcome: TrainingResult) -> TrainingResult:
        """The same with the metrics on the test data, where there is some."""
        recipe = self._recipe
        if recipe.test is None:
            return outcome
        losses = Evaluator(recipe.model, recipe.test, recipe.objective, recipe.device, name="test data").losses()
        tested = {"test_loss": losses.mean, **{f"test_{name}": value for name, value in losses.metrics.items()}}
        return outcome._replace(metrics=outcome.metrics | tested)

    def finish(self, outcome: TrainingResult) -> RunFinished:
        """Says that the run finished; on disk when it returns."""
        counters = self._trainer_state.counters
        tails = self._emitter.tails(epoch=counters.epoch, step=counters.step)
        finished = RunFinished(
            metrics=outcome.metrics,
            model_digest=outcome.model_digest,
            parameters=self.host.parameters(),
            stopped_early=outcome.stopped_early,
            tails=tails,
        )
        self._emitter.emit(finished, epoch=counters.epoch, step=counters.step)
        self._emitter.commit()
        return finished

    def seal(self, finished: RunFinished) -> Trained:
        """Seals the run that has finished."""
        self._emitter.close(seal=True)
        self._ended = True
        return Trained(self._run, self.host, finished.metrics)

    def pause(self) -> None:
        """Ends every telemetry stream: who watches knows by that that the training was stopped on purpose. On disk when it returns."""
        counters = self._trainer_state.counters
        self._emitter.tails(epoch=counters.epoch, step=counters.step)

    def fail(self, error: BaseException) -> None:
        """Says that the run failed and why; the run stays unsealed, for it may be resumed. One that has finished stays finished."""
        if any(record.type == RunFinished.KIND for record in self._emitter.upcoming):
            return
        counters = self._trainer_state.counters
        kinds: tuple[tuple[type[BaseException], FailureKind], ...] = (
            (DivergedError, "diverged"),
            (UnstableError, "rollbacks"),
            (LogError, "log"),
        )
        kind: FailureKind = next((name for cause, name in kinds if isinstance(error, cause)), "error")
        where = error.where if isinstance(error, DivergedError) else f"epoch {counters.epoch}, step {counters.step}"
        self._emitter.fail(kind, f"{type(error).__name__}: {error}", where=where, epoch=counters.epoch, step=counters.step)

    def close(self) -> None:
        """Ends the compiler's thread. The model of a training that did not come to its end is plain again, so that it can be resumed."""
        self._compiler.close()
        if not self._ended:
            self.host.release()


def _host(recipe: Recipe, settings: Settings) -> Host:
    growth = settings.growth
    recipe.model.to(recipe.device)
    return Host(
        recipe.model,
        seed_optimizer=_seed_optimizer(recipe, settings),
        sites=(recipe.sites or growth.sites) if growth.enabled else None,
        blueprints=blueprints_of(growth.blueprints),
        slots=growth.slots,
        rng_seed=settings.trainer.rng_seed,
        max_parameters=growth.max_parameters,
        clip=growth.clip,
    )


def _require_growth(recipe: Recipe, settings: Settings) -> None:
    """Raises SettingsError where what the settings ask for cannot grow in the model; the model is left as it is."""
    growth = settings.growth
    if not growth.enabled:
        return
    _require_room(recipe.model, find(recipe.model, recipe.sites or growth.sites, blueprints_of(growth.blueprints)), growth.max_parameters)
    try:
        _seed_optimizer(recipe, settings)([nn.Parameter(torch.zeros(1, 1)), nn.Parameter(torch.zeros(1))], 1e-3)
    except (TypeError, ValueError) as error:
        name = type(recipe.optimizer).__name__
        raise SettingsError(
            f"expected an optimizer that can be made for a seed as well, {name} cannot: {error}; give seed_optimizer="
        ) from error


def _require_scheduler(scheduler: Scheduler | None) -> None:
    """Raises SettingsError for a scheduler that asks for more at an epoch's end than it can be told."""
    if scheduler is None or isinstance(scheduler, ReduceLROnPlateau):
        return
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    wanted = [one for one in signature(scheduler.step).parameters.values() if one.default is Parameter.empty and one.kind not in variadic]
    if wanted:
        name = type(scheduler).__name__
        raise SettingsError(
            f"expected a scheduler whose step() can be called without arguments, {name} wants {', '.join(map(str, wanted))}"
        )


def _require_room(model: nn.Module, sites: Sites, factor: float) -> None:
    """Raises SettingsError where not even the smallest seed fits within `factor` times the parameters of `model`."""
    own = sum(parameter.numel() for parameter in model.parameters())
    limit = int(factor * own)
    sizes = sorted((size, kind, name) for name, layer, fitting in sites for kind, size in sizes_at(name, layer, fitting).items())
    (least, kind, site), (most, _, _) = sizes[0], sizes[-1]
    if own + least > limit:
        needed, enough = (math.ceil(100 * (1 + size / own)) / 100 for size in (least, most))
        raise SettingsError(
            f"setting growth.max_parameters: nothing can grow: the model has {own} parameters and may have {limit}, the smallest seed "
            f"({kind} at {site!r}) adds {least}; expected at least {needed:g}, {enough:g} for every blueprint (or smaller blueprints, "
            "or no growth)"
        )


def blueprints_of(names: tuple[str, ...] | None) -> tuple[Blueprint, ...] | None:
    """The blueprints that the settings name; None: the first set. Raises SettingsError."""
    if names is None:
        return None
    if not names:
        raise SettingsError("setting growth.blueprints: expected one or more, got none; growth.enabled=false is how nothing grows")
    try:
        return tuple(Blueprint.parse(name) for name in names)
    except DataError as error:
        raise SettingsError(f"setting growth.blueprints: {error}") from error


def _seed_optimizer(recipe: Recipe, settings: Settings) -> SeedOptimizer:
    return recipe.seed_optimizer or _like(recipe.optimizer, settings.growth.seed_lr)


def _like(optimizer: Optimizer, factor: float) -> SeedOptimizer:
    """Makes a seed's optimizer: class and options of the host's first group, without weight decay, at `factor` times its learning rate."""
    kind: Callable[..., Optimizer] = type(optimizer)
    # Not all that stands in a group can be given: AdamW's says that it is Adam with decoupled weight decay.
    given = set(signature(kind).parameters)
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in signature(kind).parameters.values()):
        given |= set(optimizer.defaults)
    options = {name: value for name, value in optimizer.param_groups[0].items() if name in given and name not in ("params", "lr")}
    if "weight_decay" in given:
        options["weight_decay"] = 0.0

    def make(parameters: list[nn.Parameter], lr: float) -> Optimizer:
        return kind(parameters, lr=factor * lr, **options)

    return make


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM ask training to stop after the step under way; a second SIGINT leaves at once.

    Only the main thread can set handlers; elsewhere nothing asks.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
