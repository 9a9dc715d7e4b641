"""`esper.fit` trains a model that may grow, and leaves its history in a log."""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.optim import Optimizer

from esper.errors import SettingsError
from esper.events.envelope import RunId
from esper.extras import require_installed
from esper.history.labels import labels_of
from esper.history.resume import log_flag
from esper.history.run_list import resolve_run
from esper.kasmina.growth import Choice, SeedOptimizer
from esper.observer.leader import start_watchers
from esper.oona.directory import Directory
from esper.processes import train as training
from esper.processes.recipe import Dotted, Recipe, RunSettings, require_trainable, run_settings
from esper.processes.train import Result, fresh_run_id
from esper.settings import person_or_none
from esper.stderr import warn
from esper.tolaria.objective import Batch, Batches, Loss, Metric, Objective, Supervised, WithoutMetrics
from esper.tolaria.requirements import require_function, require_model
from esper.tolaria.trainer import Interrupted
from esper.tolaria.training import Policy, Scheduler
from esper.tolaria.user_code import named

if TYPE_CHECKING:
    from esper.kafka.cluster import KafkaSettings


@dataclass(frozen=True)
class Grow:
    """Growth of a model: the layers where it may grow, the blueprints, the limits, and the policy that decides.

    sites: "auto", a glob over the names of layers, a type of layer, or a function (name, module) -> bool. blueprints: what seeds may be
    made of, like ("mlp:24", "lowrank:8"); None: the first set that fits. policy: SystemState and the id of its event in, decisions out;
    None: the plateau policy. max_parameters: growth stops at this many times the model's own. seed_optimizer: (parameters, lr) ->
    optimizer; None: the class and options of the model's own. settings: any other by dotted name, like {"policy.window": 7}.
    """

    sites: Choice = "auto"
    blueprints: tuple[str, ...] | None = None
    policy: Policy | None = None
    max_parameters: float = 2.0
    seed_optimizer: SeedOptimizer | None = None
    settings: Dotted = field(default_factory=dict)


def fit(
    model: nn.Module,
    train: Batches,
    valid: Batches,
    *,
    epochs: int,
    loss: Loss | None = None,
    objective: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
    optimizer: Optimizer | None = None,
    scheduler: Scheduler | None = None,
    scheduler_every: Literal["epoch", "step"] = "epoch",
    grow: Grow | None = Grow(),
    metrics: Mapping[str, Metric] | None = None,
    test: Batches | None = None,
    accumulate: int = 1,
    clip: float | None = 1.0,
    epoch_steps: int | None = None,
    threads: int = 1,
    deterministic: bool = True,
    device: str = "auto",
    log: str | Path = "runs",
    rng_seed: int = 0,
    resume: str | None = None,
    observe: bool = True,
    kafka: str | None = None,
    checkpoints: str | Path | None = None,
    by: str | None = None,
    approved_by: str | None = None,
    name: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    config: Mapping[str, object] | None = None,
    record_argv: bool = True,
    record_source: bool = True,
) -> Result:
    """The model trained for `epochs`, grown where `grow` (None: nowhere) found it worth it, and its run in `log`.

    Exactly one of `loss(output, target)` and `objective(model, batch)`, as a mean or as one number per sample: seeds are judged by sample,
    or by pieces of a batch, where the loss allows it (`esper.tolaria.pairs`), and a line says before the first step where not. `train`
    and `valid` are iterated once an epoch; `valid` must give the same order each time. The default optimizer is Adam at 3e-3. An epoch is
    one pass over `train`, or `epoch_steps` optimizer steps; data without a length need those. `scheduler` is stepped at every epoch's end,
    or after every optimizer step (`scheduler_every`). `resume` goes on with a run of this log ("latest", or its id): give the same
    model, data and settings again. `observe` starts a process that derives aggregates, anomalies and alerts beside the training, unless one
    does already; it never influences it. `kafka` ("kafka://host:port") ships the runs of `log` to a cluster whose workers derive all that
    instead; training never waits for it. With `kafka` and `checkpoints`, a folder of another machine's checkpoints, `resume` takes that
    machine's run over: it is copied into `log`, and the trainer there ends. `by` names the person who starts the run and `approved_by` who
    approved its limits, for RunStarted; one that is resumed keeps its own, and RunResumed says who else was named. SIGINT and SIGTERM end a
    training after the step under way, and it can be resumed.

    `name`, `tags`, `notes` and `config`, a mapping of values of your own (at most 16 KiB as JSON), label the run in its log: lists show and
    pick it by them, and a name that no other run has is taken wherever a run's id is.

    The log has how it was trained (`esper show RUN --how`), the command line, and the source that no revision gives: the changes of a dirty
    tree, or the script and its modules outside of a repository. Secrets are masked as well as they can be told; `record_argv=False` and
    `record_source=False` leave the command line and the source out.

    While it trains, torch runs on `threads` threads with deterministic algorithms, and every random generator begins anew with each epoch;
    afterwards all of that is as it was. `deterministic=False` is for operations that have no deterministic kernel on a GPU, and for speed:
    numbers differ from run to run then, the log says so, and every epoch has a checkpoint.

    Raises SettingsError for what cannot work and DataError for malformed data, before the first step: the loss is measured on the first
    batch of `train`, `valid` and `test` before there is a run. Raises LogError where the log fails; a run that ends by an
    exception has RunFailed in its log, and `model` is plain again then: give it to the `fit` that resumes. After a `fit` that came to its
    end go on with `result.model`.
    """
    growth = _growth(grow)
    if not isinstance(resume, str | None):
        raise SettingsError(f'resume: expected "latest", or the id of a run, got {resume!r}')
    require_model(model)  # Before its optimizer is made, and before it is moved.
    given: Dotted = {
        "growth.enabled": grow is not None,
        "trainer.epochs": epochs,
        "trainer.accumulate": accumulate,
        "trainer.clip": clip,
        "trainer.epoch_steps": epoch_steps,
        "trainer.scheduler_every": scheduler_every,
        "trainer.threads": threads,
        "trainer.deterministic": deterministic,
        "trainer.rng_seed": rng_seed,
    }
    settings = _settings(given, growth)
    where = _device(device)
    recipe = Recipe(
        task=Path(sys.argv[0]).name or "python",
        model=model.to(where),
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3) if optimizer is None else optimizer,
        train=train,
        valid=valid,
        test=test,
        objective=_objective(loss, objective, metrics or {}),
        scheduler=scheduler,
        sites=growth.sites,
        policy=growth.policy,
        seed_optimizer=growth.seed_optimizer,
        device=where,
        by=person_or_none("by=", by),
        approved_by=person_or_none("approved_by=", approved_by),
        labels=labels_of(name, tags, notes, config),
        argv=record_argv,
        source=record_source,
    )
    require_trainable(recipe, settings, resumed=resume is not None)  # Before there is a directory, or a process that observes it.
    if checkpoints is not None and (kafka is None or resume is None):
        raise SettingsError("checkpoints=: expected kafka= and resume= with it; a run in this log has its checkpoints there")
    cluster = None if kafka is None else _cluster(kafka, Path(log))
    directory = Directory(log, create=True)
    run = fresh_run_id() if resume is None else _existing(resume, directory, cluster, checkpoints)
    conduct = training.train if resume is None else training.resume
    if observe:
        start_watchers(directory, observer=cluster is None)
    with ExitStack() as stack:
        if cluster is not None:
            from esper.processes.training_bridge import bridged

            stack.enter_context(bridged(directory, cluster, run))
        if resume is None:
            warn(f"run {run[-6:]} begins; esper show {run[-6:]}{log_flag(directory.path)} has its history")
        try:
            return conduct(recipe, settings, directory, run)
        except Interrupted as error:
            warn(f"run {run[-6:]} {error}; esper.fit(..., resume={run[-6:]!r}) goes on")
            raise


def _existing(text: str, directory: Directory, cluster: "KafkaSettings | None", checkpoints: str | Path | None) -> RunId:
    """The run that `text` means in `directory`; with `checkpoints` on the cluster, taken over from there."""
    if cluster is None or checkpoints is None:
        return resolve_run(directory, text)
    from esper.processes.taking_over import take_run_over

    with ThreadPoolExecutor(1) as pool:  # A notebook's thread has a loop that runs already.
        return pool.submit(take_run_over, cluster, directory, text, Path(checkpoints), require=lambda *_: None, report=warn).result()


def _cluster(address: str, log: Path) -> "KafkaSettings":
    """The cluster at `address`, checked. Raises SettingsError for one that cannot be used, and where its client is not installed."""
    require_installed("Kafka", "kafka", "aiokafka")
    from esper.processes.training_bridge import checked_cluster

    return checked_cluster(address, log)


def _settings(given: Dotted, growth: Grow) -> RunSettings:
    """The settings of `given` and `growth`. Raises SettingsError for one of `growth.settings` that has an argument or a field."""
    sites = growth.sites
    # The log has the name of a type or a function.
    name_of_sites = sites if isinstance(sites, str) else getattr(sites, "__qualname__", type(sites).__qualname__)
    given = given | {"growth.sites": name_of_sites, "growth.max_parameters": growth.max_parameters}
    if growth.blueprints is not None:
        given["growth.blueprints"] = list(growth.blueprints)
    for name in growth.settings.keys() & given.keys():
        raise SettingsError(f"setting {name}: expected as an argument of its own, got it in Grow(settings=...)")
    return run_settings(given, growth.settings)


def _growth(grow: Grow | None) -> Grow:
    """The fields of `grow`; without growth those of the default, of which none has an effect. Raises SettingsError for another value."""
    if isinstance(grow, Grow | None):
        return grow or Grow()
    raise SettingsError(f"grow: expected esper.Grow(...), or None where nothing may grow, got {grow!r:.80}")


def _objective(loss: Loss | None, objective: Callable[[nn.Module, Batch], torch.Tensor] | None, metrics: Mapping[str, Metric]) -> Objective:
    if not isinstance(metrics, Mapping):
        raise SettingsError(f'metrics: expected functions by name, {{"accuracy": accuracy}}, got {named(metrics)}')
    given = {"loss": loss, "objective": objective} | {f"metric {name!r}": metric for name, metric in metrics.items()}
    for name, function in given.items():
        if function is not None or name.startswith("metric"):
            require_function(name, function)
    if loss is not None and objective is None:
        return Supervised(loss, metrics)
    if objective is not None and loss is None and not metrics:
        return WithoutMetrics(objective)
    raise SettingsError("expected exactly one of loss= and objective=, and metrics= only beside loss=")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"expected a device torch knows, or auto; got {name!r}: {error}") from error
