"""A training process: settings and a recipe in, a run in the log out. Log, host, policy and trainer are put together here.

The log states how the process ended: RunFinished, RunFailed, or nothing where the run was interrupted and can be resumed.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TypeVar

from torch import nn

from esper.errors import DataError, EsperError, LogError, SettingsError
from esper.events import codec
from esper.events.envelope import Moment, Record, RunId
from esper.events.fields import Event
from esper.events.kinds.control import CommandApplied
from esper.events.kinds.lifecycle import SeedEvaluated
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved, DataFingerprint, Pairs, RunFinished, RunRolledBack, RunStarted
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.events.kinds.training_description import TrainingDescribed
from esper.history.resume import log_flag, resume_hint
from esper.history.run_history import History, open_run
from esper.history.run_list import summaries
from esper.kasmina.calls import Calls
from esper.kasmina.compiler import KernelCompiler
from esper.kasmina.host import Host
from esper.kasmina.plain_model import save_grown
from esper.oona.catch_up import CatchUp, DivergedError
from esper.oona.contract import Log, records_of
from esper.oona.directory import Directory, new_run_id
from esper.oona.emitter import Emitter, FailureKind
from esper.oona.file import KERNELS, fenced_by
from esper.oona.run_log import RunLog
from esper.oona.steady_clock import SteadyClock
from esper.processes.bound_run import bind_metrics
from esper.processes.recipe import Recipe, RunSettings, seed_optimizer_of
from esper.stderr import warn
from esper.tamiyo.policy import decide
from esper.tolaria import environment, source_code
from esper.tolaria.checkpoints import verify_checkpoint
from esper.tolaria.description import describe
from esper.tolaria.determinism import determinism_settings, deterministic, inexact, without_a_kernel
from esper.tolaria.objective import Batches
from esper.tolaria.outcome import judge_outcome
from esper.tolaria.pairs import measure_of, warning
from esper.tolaria.trainer import Interrupted, Trainer, TrainingResult, UnstableError
from esper.tolaria.training import Training
from esper.tolaria.user_code import Noted, raised
from esper.tolaria.validation import Evaluator

_LOOK_S = 1.0
_TOLD = 3


@dataclass(frozen=True)
class Result:
    """A finished run: its id and log, the metrics of RunFinished, and the trained model."""

    run: RunId
    log: Path
    metrics: Mapping[str, float]
    host: Host = field(repr=False)

    @property
    def model(self) -> nn.Module:
        """A plain copy of the model with what has grown in it: no class of Esper is left, so it can be pickled and moved."""
        return self.host.export_plain()

    @property
    def history(self) -> History:
        """The run's history, read from its log."""
        return open_run(self.run, log=self.log)

    def save(self, folder: str | Path) -> Path:
        """Writes `model.safetensors` and `grown.py` into `folder`: `grown.rebuild(host)` there gives the model, and needs only torch.

        Who may read them is decided by the umask.
        """
        return save_grown(self.model, Path(folder))


def fresh_run_id() -> RunId:
    """The id of a run that begins now."""
    return new_run_id(datetime.now(UTC), os.urandom(10))


def train(recipe: Recipe, settings: RunSettings, directory: Directory, run: RunId) -> Result:
    """Trains `recipe`, which passes `require_trainable`, as the new run `run`.

    Raises Interrupted when stopped by a signal; every other error is in the log as RunFailed.
    """
    name = recipe.labels.name
    if same := [line.run for line in summaries(directory) if line.name == name] if name is not None else []:
        warn(f"{name!r} is the name of run {same[0][-6:]} too, so that it means neither: a name of its own, or tags=, tells this run")
    with directory.create(run) as log:
        return _run(recipe, settings, directory, log, (None, None, ()))


def resume(recipe: Recipe, settings: RunSettings, directory: Directory, run: RunId) -> Result:
    """Resumes `run` from its newest whole checkpoint, catching up with what its log already has. Raises as `train` does.

    A checkpoint that is missing or damaged is skipped and named in RunResumed. Without any whole one the run begins again, from the
    untrained model of `recipe`.
    """
    if isinstance(recipe.train, Iterator):
        raise SettingsError(
            f"expected training data that begin anew with every epoch, got a {type(recipe.train).__name__}: where it stands in its data "
            "is not known, so that a resumed run would see others"
        )
    with directory.resume(run) as log:
        recipe = _as_logged(recipe, settings, log)
        return _run(recipe, settings, directory, log, resume_point(log, directory.checkpoints(run)))


def _as_logged(recipe: Recipe, settings: RunSettings, log: Log) -> Recipe:
    """`recipe` by the name that the run began with, whatever the resuming script is called, and with the sites that "auto" found then.

    A pass of a model that has been trained since may take another way.
    """
    started = next((event for _, event in _events(log, RunStarted)), None)
    if started is None:
        return recipe
    names = {site.name for site in started.sites}
    automatic = (recipe.sites or settings.growth.sites) == "auto" and names
    return replace(recipe, task=started.task, sites=(lambda name, _module: name in names) if automatic else recipe.sites)


_ResumePoint = tuple[CheckpointSaved | None, Moment | None, tuple[str, ...]]
"""The checkpoint that a resume begins from and the moment of its record, None where there is none; the problems of newer checkpoints."""


def resume_point(log: Log, folder: Path) -> _ResumePoint:
    """The newest checkpoint of `log` that was not pruned and has whole files in `folder`, its moment, and the problems of newer ones."""
    kept: dict[str, tuple[Moment, CheckpointSaved]] = {}
    for record, event in _events(log, CheckpointSaved, CheckpointPruned):
        if isinstance(event, CheckpointSaved):
            kept[event.checkpoint] = record.moment, event
        elif isinstance(event, CheckpointPruned):
            kept.pop(event.checkpoint, None)
    problems: list[str] = []
    for moment, saved in sorted(kept.values(), key=lambda one: one[0], reverse=True):
        try:
            verify_checkpoint(folder, saved.checkpoint, saved.digest)
        except DataError as error:
            problems.append(str(error))
        else:
            return saved, moment, tuple(problems)
    return None, None, tuple(problems)


def run_started(log: Log) -> RunStarted:
    """The RunStarted of `log`. Raises DataError where there is none."""
    for _, event in _events(log, RunStarted):
        return event
    raise DataError("the log holds no RunStarted: the run was interrupted before it began; start it again")


_Kind = TypeVar("_Kind", bound=Event)


def _events(log: Log, *kinds: type[_Kind]) -> Iterator[tuple[Record, _Kind]]:
    by_name = {kind.KIND: kind for kind in kinds}
    for record in records_of(log, frozenset(kind.TOPIC for kind in kinds)):
        if record.type in by_name:
            yield record, codec.decode_as(record, by_name[record.type])


def _run(recipe: Recipe, settings: RunSettings, directory: Directory, log: RunLog, point: _ResumePoint) -> Result:
    """Trains from `point` on, between the first event and the last, and releases every part in the reverse order."""
    saved, moment, _ = point
    ahead = CatchUp(log, moment, None if saved is None else saved.checkpoint) if log.heads().moment > 0 else None
    with ExitStack() as stack:
        stack.enter_context(deterministic(recipe.device, settings.trainer.threads, enabled=settings.trainer.deterministic))
        emitter = stack.enter_context(Emitter(log, log.run, clock=SteadyClock(), catch_up=ahead))
        requested = stack.enter_context(_stopped_by_signals())
        compiler = stack.enter_context(closing(KernelCompiler(directory.path / KERNELS)))
        described = _described(recipe)  # Before a layer of the model is adopted as a site.
        evaluator = Evaluator(recipe.model, recipe.valid, recipe.objective, recipe.device)
        training = _training(recipe, settings, emitter, compiler, directory.checkpoints(log.run), calls=_calls(settings, evaluator, log))
        # The model of a training that does not finish becomes plain again, so that it can be resumed.
        unfinished = stack.enter_context(ExitStack())
        unfinished.callback(training.host.release)
        stop = _stop_unless_taken_over(requested, log.path)
        with _recorded_end(training, emitter, log, recipe.task, directory.path):
            # A metric that is measured while data are read for RunStarted belongs to no epoch: it is not recorded.
            with bind_metrics(log.run):
                _report_inexact(recipe)
                pairs = _pairs(settings, training.host, evaluator, log)
                evaluator = evaluator if pairs is None else replace(evaluator, measure=measure_of(recipe.objective, pairs))
                trainer = Trainer(training, train=recipe.train, objective=recipe.objective, evaluator=evaluator, stop=stop)
                _begin(trainer, (_start(recipe, settings, training.host, pairs), described), log, ahead, point)
            with bind_metrics(log.run, lambda event: training.measure(CustomMetricRecorded, lambda: event)):
                metrics = _finish(recipe, training, emitter, trainer.train())
        emitter.close(seal=True)
        _report_rollbacks(log)
        unfinished.pop_all()
        return Result(log.run, directory.path, metrics, training.host)


@contextmanager
def _recorded_end(training: Training, emitter: Emitter, log: RunLog, task: str, folder: Path) -> Iterator[None]:
    """Within, an interruption or an error ends the run in its log too, and what a person can do about it is reported."""
    try:
        yield
    except Interrupted:
        with _reported_trouble(log.run):  # Every topic ends, so observers see that the training was stopped on purpose.
            emitter.stop(**_at(training))
        raise
    except BaseException as error:
        with _reported_trouble(log.run):
            _fail(error, training, emitter)
        _explain(error, training, log.run, task, folder)
        raise


def _report_rollbacks(log: RunLog) -> None:
    """Reports on standard error how often a finished training went back, and why; nothing where it never did."""
    times = [
        f"in epoch {event.from_epoch} to the end of epoch {event.to_epoch} ({event.reason})" for _, event in _events(log, RunRolledBack)
    ]
    if times:
        more = f", and {len(times) - _TOLD} times more" if len(times) > _TOLD else ""
        warn(f"run {log.run[-6:]} was rolled back {', '.join(times[:_TOLD])}{more}; what it learned in between is not in the model")


def _at(training: Training) -> dict[str, int]:
    return {"epoch": training.counters.epoch, "step": training.counters.step}


def _training(
    recipe: Recipe, settings: RunSettings, emitter: Emitter, compiler: KernelCompiler, checkpoints: Path, *, calls: Calls | None
) -> Training:
    seed_optimizer, policy, rng_seed = seed_optimizer_of(recipe, settings), settings.policy, settings.trainer.rng_seed
    return Training(
        host=Host(recipe.model, settings.growth, seed_optimizer=seed_optimizer, sites=recipe.sites, rng_seed=rng_seed, calls=calls),
        optimizer=recipe.optimizer,
        scheduler=recipe.scheduler,
        sink=emitter,
        settings=settings.trainer,
        schedule=policy,
        gate=settings.gate,
        device=recipe.device,
        policy=recipe.policy or (lambda state, evidence: decide(state, evidence, policy)),
        compiler=compiler,
        checkpoints=checkpoints,
        tell=warn,
    )


def _calls(settings: RunSettings, evaluator: Evaluator, log: RunLog) -> Calls | None:
    """The way of a pass through the model's layers; None where nothing can grow, or the run has begun and its sites are known."""
    if not settings.growth.enabled or any(_events(log, RunStarted)):
        return None
    with bind_metrics(log.run):  # A metric that is measured here belongs to no epoch: it is not recorded.
        return evaluator.calls(settings.trainer.rng_seed)


def _pairs(settings: RunSettings, host: Host, evaluator: Evaluator, log: Log) -> Pairs | None:
    """The pairs that seeds are judged by, as the run began or as they are found now; None where nothing can grow."""
    for _, started in _events(log, RunStarted):
        return started.pairs
    if not host.sites:
        return None
    pairs = evaluator.find_pairs(settings.policy.least_pairs)
    if words := warning(pairs, settings.policy.least_pairs):
        warn(words)
    return pairs


def _report_inexact(recipe: Recipe) -> None:
    """Reports on standard error why a resumed run would not see the same data, as far as that shows."""
    for name in ("train", "valid"):
        if (reason := inexact(recipe.loaders[name])) is not None:
            warn(f"{name}: {reason}")


def _start(recipe: Recipe, settings: RunSettings, host: Host, pairs: Pairs | None) -> RunStarted:
    return RunStarted(
        task=recipe.task,
        settings=settings.dotted(),
        code=source_code.code(argv=recipe.argv),
        packages=environment.packages(),
        data=tuple(_fingerprint(name, batches) for name, batches in recipe.loaders.items()),
        rng_seed=settings.trainer.rng_seed,
        determinism=determinism_settings(settings.trainer.digest),
        hardware=environment.hardware(recipe.device),
        sites=host.sites,
        passed_over=host.passed_over,
        pairs=pairs,
        parameters=host.parameters(),
        epochs=settings.trainer.epochs,
        by=recipe.by,
        approved_by=recipe.approved_by,
        name=recipe.labels.name,
        tags=recipe.labels.tags,
        notes=recipe.labels.notes,
        config=dict(recipe.labels.config),
        account=environment.account(),
    )


def _fingerprint(name: str, batches: Batches) -> DataFingerprint:
    with Noted(f"raised by the data {name}= as samples of it were read for the log"):
        return environment.data_fingerprint(name, batches)


def _described(recipe: Recipe) -> TrainingDescribed:
    return describe(
        recipe.model.to(recipe.device),
        recipe.optimizer,
        scheduler=recipe.scheduler,
        objective=recipe.objective,
        loaders=recipe.loaders,
        policy=recipe.policy,
        device=recipe.device,
        source=recipe.source,
    )


def _begin(trainer: Trainer, start: tuple[RunStarted, TrainingDescribed], log: Log, ahead: CatchUp | None, point: _ResumePoint) -> None:
    """Starts the run, or restores the checkpoint of `point` and what else the log has."""
    saved, moment, problems = point
    if ahead is not None:
        ahead.compare_start(*start)
        ahead.environment_changes += problems
    if saved is None:
        started, described = start
        trainer.start(started, described if ahead is None else None)  # After RunResumed, where the log lacks it.
    else:
        evaluations = {(event.site, event.seed, record.epoch): record.id for record, event in _events(log, SeedEvaluated)}
        adapted = [record.id for record, _ in _events(log, CommandApplied, RunRolledBack) if moment is None or record.moment < moment]
        trainer.resume(saved.checkpoint, saved.digest, evaluations, adapted[-1] if adapted else None)


def _finish(recipe: Recipe, training: Training, emitter: Emitter, outcome: TrainingResult) -> Mapping[str, float]:
    """Evaluates the test data, and emits RunFinished with all metrics; on disk when it returns."""
    metrics = outcome.metrics
    if recipe.test is not None:
        losses = Evaluator(recipe.model, recipe.test, recipe.objective, recipe.device, name="test data").losses()
        metrics = metrics | losses.named("test")
    judge_outcome(training, outcome.metrics["validation_loss"], outcome.guessing)
    finished = RunFinished(
        metrics=metrics,
        model_digest=outcome.model_digest,
        parameters=training.host.parameters(),
        stopped_early=outcome.stopped_early,
        tails=emitter.tails(**_at(training)),
    )
    training.emit(finished)
    emitter.commit()
    return finished.metrics


@contextmanager
def _reported_trouble(run: RunId) -> Iterator[None]:
    """Within, a log that cannot take how a run ends is reported, and does not hide why it ends."""
    try:
        yield
    except EsperError as error:
        warn(f"how run {run[-6:]} ended could not be recorded: {error}")


def _fail(error: BaseException, training: Training, emitter: Emitter) -> None:
    """Records RunFailed; the run stays unsealed and may be resumed. A run that has finished stays finished."""
    if any(record.type == RunFinished.KIND for record in emitter.pending_facts):
        return
    kinds: dict[type[BaseException], FailureKind] = {DivergedError: "diverged", UnstableError: "rollbacks", LogError: "log"}
    kind: FailureKind = next((name for cause, name in kinds.items() if isinstance(error, cause)), "error")
    at = _at(training)
    where = error.where if isinstance(error, DivergedError) else f"epoch {at['epoch']}, step {at['step']}"
    emitter.fail(kind, f"{type(error).__name__}: {error}", where=where, **at)


def _explain(error: BaseException, training: Training, run: RunId, task: str, log: Path) -> None:
    """Reports what a person can do about an error of torch's or of the user's own code."""
    if (advice := without_a_kernel(error)) is not None:
        warn(advice)
    if isinstance(error, Exception) and not isinstance(error, EsperError):
        at = training.counters
        hint = resume_hint(run, task if at.checkpoints else None, log_flag(log))
        warn(f"{raised(error)}; run {run[-6:]} ended in epoch {at.epoch}, step {at.step}; {hint}")


def _stop_unless_taken_over(requested: Callable[[], bool], folder: Path) -> Callable[[], bool]:
    """A function that returns `requested()`, and raises LogError within a second after a bridge has marked the run as taken over."""
    looked_at = -math.inf

    def stop() -> bool:
        nonlocal looked_at
        if time.monotonic() >= looked_at + _LOOK_S:
            looked_at = time.monotonic()
            if (reason := fenced_by(folder)) is not None:
                raise LogError(f"{reason}; this training ends here, and none of its further records is on Kafka")
        return requested()

    return stop


@contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM request training to stop after the step under way; a second SIGINT ends it at once.

    Only the main thread can set handlers; on any other thread training never stops on request.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def request(number: int, _frame: FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
