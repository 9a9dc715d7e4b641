"""`esper train`, `demo` and `resume`: the only commands that import torch, and only once they run; and the outcome that they print."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue
from rich.bar import Bar
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from esper.cli.arguments import Subcommands, directory_of, log_of, log_option, new_command, whole_number
from esper.cli.commands.distributed import add_kafka, kafka_of
from esper.cli.decisions_and_refusals import is_adaptation, refusals, words_of_decisions
from esper.cli.live import live_display
from esper.cli.output import Output
from esper.cli.text import count, metric, one_line, rounded, separated, short_id
from esper.errors import SettingsError
from esper.events.envelope import RunId
from esper.events.kinds.control import Adaptation
from esper.events.kinds.run import RunRolledBack
from esper.extras import require_installed
from esper.folds.control_state import DecisionRow
from esper.history.labels import labels_of
from esper.history.resume import Variant, is_resumable, resume_hint
from esper.history.run_history import FoldedRun
from esper.history.run_list import resolve_run
from esper.kafka.cluster import is_kafka
from esper.oona.directory import Directory
from esper.settings import person_or_none
from esper.stderr import warn
from esper.words import plural

if TYPE_CHECKING:
    from esper.api.task import Task
    from esper.demo.comparison import Compared
    from esper.events.kinds.run import RunStarted
    from esper.kafka.cluster import KafkaSettings
    from esper.processes.recipe import Recipe, RunSettings
    from esper.processes.train import Result

_TITLES: Mapping[Variant, str] = {
    "grown": "grown",
    "host": "host alone",
    "static_same": "same static",
    "static_wider": "wider static",
}
_DONE: Mapping[Adaptation, str] = {
    Adaptation.GERMINATE: "germinated",
    Adaptation.GRAFT: "grafted",
    Adaptation.FOSSILIZE: "fossilized",
    Adaptation.CULL: "culled",
    Adaptation.CANCEL: "cancelled",
}
_TURNS = 12
_BAR = 10


def add(commands: Subcommands) -> None:
    """Adds the commands."""
    outcome = "the outcome as one JSON object, without a display"
    train = new_command(commands, "train", _run_train, "train a task; all that happens is in the log", json=outcome)
    train.add_argument("task", metavar="TASK", help="a task's name (digits, mnist1d), module:attribute, or a TOML file")
    train.add_argument("--epochs", type=whole_number, metavar="N", help="number of epochs (trainer.epochs)")
    train.add_argument("--rng-seed", type=whole_number, metavar="N", help="the number all randomness is derived from (trainer.rng_seed)")
    train.add_argument("--threads", type=whole_number, metavar="N", help="torch's threads (trainer.threads)")
    words = "let torch use algorithms whose results differ from run to run (trainer.deterministic)"
    train.add_argument("--no-deterministic", dest="deterministic", action="store_const", const=False, help=words)
    train.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting by its dotted name; repeatable")
    train.add_argument("--by", metavar="NAME", help="the person who starts the run, for its log")
    train.add_argument("--approved-by", metavar="NAME", help="the person who approved its limits, for its log")
    train.add_argument("--name", metavar="NAME", help="a name for the run, taken wherever its id is")
    train.add_argument("--tag", action="append", default=[], metavar="TAG", help="a tag for the run; repeatable")
    train.add_argument("--note", metavar="TEXT", help="a note about the run")
    train.add_argument("--no-argv", action="store_true", help="leave the command line out of the log")
    train.add_argument("--no-source", action="store_true", help="leave the source that no revision gives out of the log")
    train.add_argument("--compare", action="store_true", help="afterwards train the host alone and the static nets, and compare")
    demo = new_command(commands, "demo", _run_train, "train digits, and compare: the same as `train digits --compare`", json=outcome)
    demo.set_defaults(**vars(train.parse_args(["digits", "--compare"])))
    resume = new_command(commands, "resume", _run_resume, "resume a run that was interrupted", run=True, json=outcome)
    words = "with --log kafka://host:port: the run's folder of checkpoints, or a log's directory with the run in it"
    resume.add_argument("--checkpoints", type=Path, metavar="DIR", help=words)
    resume.add_argument("--into", metavar="DIR", help="with --log kafka://host:port: the log's directory here (default: runs)")
    for parser in (train, demo, resume):
        parser.add_argument("--no-observe", action="store_true", help="start neither an observer nor an agent in the background")
        add_kafka(parser, "ship the runs of the log to a cluster beside the training, whose workers watch it instead of an observer")


def _run_train(arguments: argparse.Namespace, out: Output) -> int:
    """Trains a new run. Where it is stopped, the last line is the command that resumes it."""
    by, approved_by = person_or_none("--by", arguments.by), person_or_none("--approved-by", arguments.approved_by)
    cluster = _cluster(arguments)
    require_installed("training", "train", "torch")
    from esper.api.task import recipe_of
    from esper.demo.comparison import require_comparable
    from esper.processes.recipe import require_trainable
    from esper.processes.train import fresh_run_id, train

    task, settings = _task_and_settings(arguments)
    if arguments.compare:
        require_comparable(task)
    recipe = replace(recipe_of(task, settings), by=by, approved_by=approved_by, argv=not arguments.no_argv, source=not arguments.no_source)
    recipe = replace(recipe, labels=labels_of(arguments.name, arguments.tag, arguments.note))
    require_trainable(recipe, settings)
    directory = directory_of(arguments, create=True)
    run = fresh_run_id()

    rows: list[Compared] = []
    with _watched(directory, run, cluster, arguments):
        trained = _conduct(lambda: train(recipe, settings, directory, run), arguments, out, directory, run)
        try:
            if arguments.compare:
                _compare(rows, recipe, task, settings, trained, arguments=arguments, out=out)
        finally:
            # The run that was asked for is whole, also where the comparison failed.
            _conclude(trained, rows, arguments, out)
    return 0


def _compare(
    rows: "list[Compared]",
    recipe: "Recipe",
    task: "Task",
    settings: "RunSettings",
    trained: "Result",
    *,
    arguments: argparse.Namespace,
    out: Output,
) -> None:
    """Adds the variants of `trained` to `rows`, each once it is trained. An interruption is reported as one of the comparison alone."""
    from esper.demo.comparison import compare
    from esper.tolaria.trainer import Interrupted

    def say(variant: Variant) -> None:
        if not arguments.json:
            out.line(Text(f" now {_TITLES[variant]}, with the same data and steps", style="dim"))

    try:
        # `extend` keeps each variant as it is trained, so those before an interruption stay.
        rows.extend(compare(task, settings, Directory(trained.log), trained, say=say, by=recipe.by, approved_by=recipe.approved_by))
    except (Interrupted, KeyboardInterrupt):
        warn("interrupted while comparing; the grown run is whole, and nothing has to go on")
        raise KeyboardInterrupt from None


def _run_resume(arguments: argparse.Namespace, out: Output) -> int:
    """Goes on with a run from its last checkpoint; with one on Kafka after it was taken over and copied into a directory here."""
    address = arguments.log if is_kafka(arguments.log or "") else None
    if address is not None:
        if arguments.checkpoints is None:
            raise SettingsError("--log kafka://...: expected --checkpoints DIR too, the run's folder of checkpoints, got none")
        arguments.log, arguments.kafka = arguments.into, address
    elif arguments.checkpoints is not None or arguments.into is not None:
        raise SettingsError("--checkpoints and --into: expected --log kafka://host:port with them, got a log in a directory")
    cluster = _cluster(arguments)
    require_installed("training", "train", "torch")
    from esper.api.task import recipe_of
    from esper.demo.tasks import find_task
    from esper.processes.recipe import run_settings
    from esper.processes.train import resume, run_started

    directory = directory_of(arguments, create=address is not None)
    run = resolve_run(directory, arguments.run) if address is None or cluster is None else _taken_over(arguments, cluster, directory)
    with directory.open(run) as log:
        begun = run_started(log)
    _require_resumable(run, begun, arguments)
    sys.path.insert(0, str(Path.cwd()))
    task = find_task(begun.task)
    settings = run_settings(begun.settings)
    recipe = recipe_of(task, settings)
    with _watched(directory, run, cluster, arguments):
        trained = _conduct(lambda: resume(recipe, settings, directory, run), arguments, out, directory, run)
        _conclude(trained, [], arguments, out)
    return 0


def _taken_over(arguments: argparse.Namespace, cluster: "KafkaSettings", directory: Directory) -> RunId:
    """The run RUN on the cluster, taken over and copied into the directory."""
    from esper.demo.tasks import find_task
    from esper.processes.taking_over import take_run_over

    def require(run: RunId, begun: "RunStarted") -> None:
        _require_resumable(run, begun, arguments)
        find_task(begun.task)

    return take_run_over(cluster, directory, arguments.run, arguments.checkpoints, require=require, report=warn)


def _require_resumable(run: RunId, begun: "RunStarted", arguments: argparse.Namespace) -> None:
    if not is_resumable(begun.task):
        raise SettingsError(f"run {run}: {resume_hint(run, begun.task, log_option(arguments))}")


def _cluster(arguments: argparse.Namespace) -> "KafkaSettings | None":
    """The cluster that the training is shipped to, checked before anything else is done; None where none is named."""
    address = kafka_of(arguments)
    if address is None:
        return None
    from esper.processes.training_bridge import checked_cluster

    return checked_cluster(address, log_of(arguments))


@contextmanager
def _watched(directory: Directory, run: RunId, cluster: "KafkaSettings | None", arguments: argparse.Namespace) -> Iterator[None]:
    """Within, the directory is shipped to `cluster`, whose workers watch it; without one an observer does, which leaves on its own."""
    if not arguments.no_observe:
        from esper.observer.leader import start_watchers

        start_watchers(directory, observer=cluster is None)
    if cluster is None:
        yield
        return
    from esper.processes.training_bridge import bridged

    with bridged(directory, cluster, run):
        yield


def _task_and_settings(arguments: argparse.Namespace) -> "tuple[Task, RunSettings]":
    from esper.api.task import read_task_file
    from esper.demo.tasks import find_task
    from esper.processes.recipe import run_settings

    name, written = read_task_file(Path(arguments.task)) if arguments.task.endswith(".toml") else (arguments.task, {})
    # A console script does not look for modules where it was called; a task of one's own is expected there.
    sys.path.insert(0, str(Path.cwd()))
    task = find_task(name)
    given = ("epochs", "rng_seed", "threads", "deterministic")
    options = {f"trainer.{name}": getattr(arguments, name) for name in given}
    typed = {name: value for name, value in options.items() if value is not None}
    return task, run_settings(task.settings, written, *map(parse_assignment, arguments.set), typed)


def parse_assignment(text: str) -> dict[str, JsonValue]:
    """The setting of `--set name=value` by its dotted name; the value is JSON, or a bare text. Raises SettingsError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingsError(f"--set: expected name=value, got {text!r}")
    try:
        return {name: json.loads(value)}
    except json.JSONDecodeError:
        return {name: value}


def _conduct(training: "Callable[[], Result]", arguments: argparse.Namespace, out: Output, directory: Directory, run: RunId) -> "Result":
    """Trains with the display on. Raises KeyboardInterrupt where training was stopped, after printing the command that resumes it."""
    from esper.tolaria.trainer import Interrupted

    display = nullcontext() if arguments.json else live_display(directory, run, out)
    try:
        with display:
            return training()
    except Interrupted as stopped:
        warn(f"{stopped}; all of it is in the log. To go on:")
        kafka = f" --kafka {arguments.kafka}" if arguments.kafka else ""
        print(f"esper resume {run[-6:]}{log_option(arguments)}{kafka}", file=sys.stderr)
        raise KeyboardInterrupt from None


def _conclude(result: "Result", rows: "Sequence[Compared]", arguments: argparse.Namespace, out: Output) -> None:
    """Writes the outcome."""
    parameters = result.host.parameters()
    if arguments.json:
        out.json({"run": result.run, "parameters": parameters, "metrics": result.metrics, "compared": rows})
        return
    out.print("", *([comparison(rows)] if rows else []))
    metrics = (metric(name, value) for name, value in result.metrics.items())
    out.print(separated((f"run {short_id(result.run)}", plural(parameters, "parameter"), *metrics), indent=1))
    if rows:
        with result.history as history:
            out.print("\n what grew, told again from its log:", *growth_summary(history.known))
    name, log = result.run[-6:], log_option(arguments)
    out.line(Text(" every claim above is in the log:", style="dim"))
    for command in ("show {}", "show {} --how", "replay {}", "log {} --topic decisions"):
        out.line(f"   esper {command.format(name)}{log}")


def comparison(rows: "Sequence[Compared]") -> Table:
    """A row per variant with a bar from 0 to 100 %, the best first."""
    alone = next((row.accuracy for row in rows if row.variant == "host"), None)
    accuracy, parameters = (Column(no_wrap=True, justify="right") for _ in range(2))
    columns = (Column(no_wrap=True, min_width=14), accuracy, Column(width=_BAR), parameters, Column(no_wrap=True))
    table = Table.grid(*columns, padding=(0, 2, 0, 0))
    for row in sorted(rows, key=lambda row: -row.accuracy):
        grown = row.variant == "grown"
        remark = "has to be known beforehand" if row.variant.startswith("static") else ""
        if grown and alone is not None:
            gain = (row.accuracy - alone) * 100
            remark = f"{rounded(abs(gain), 1)} points {'over' if gain >= 0 else 'under'} the host"
        table.add_row(
            f" {_TITLES[row.variant]}",
            f"{rounded(row.accuracy * 100, 1)} %",
            # Written so that NaN draws nothing: every comparison with it is false.
            Bar(size=1, begin=0, end=row.accuracy if 0 <= row.accuracy <= 1 else 0, color="green" if grown else "cyan"),
            f"{count(row.parameters)} parameters",
            remark,
            style="bold" if grown else "",
        )
    return table


def growth_summary(folded: FoldedRun) -> Iterator[RenderableType]:
    """The last dozen changes of the network, a line for all that were alike after one epoch, then the gate's refusals."""
    alike: dict[tuple[int, Adaptation], list[DecisionRow]] = {}
    for one in filter(is_adaptation, folded.timeline.decisions):
        if one.fate == "applied":
            alike.setdefault((one.epoch, one.decision.adaptation), []).append(one)
    turns = [(group[0].moment, f"{epoch:>5}  {_changes(group)}") for (epoch, _), group in alike.items()]
    turns += [(note.moment, f"{note.epoch:>5}  {note.text}") for note in folded.timeline.notes if note.kind == RunRolledBack.KIND]
    if len(turns) > _TURNS:
        yield Text(f"{'':>7}{plural(len(turns) - _TURNS, 'earlier turn')} are not told here", style="dim")
    yield from (one_line(*re.split(" (?!%)", words), between=" ") for _, words in sorted(turns)[-_TURNS:])
    if not turns:
        yield Text(f"{'':>7}nothing grew")
    else:
        yield words_of_decisions()
    yield Text(f"{'':>7}refused by the gate: {refusals(folded.state)}")


def _changes(group: Sequence[DecisionRow]) -> str:
    first, names, site = group[0].decision, [], None
    for decision in (one.decision for one in group):
        where = "" if decision.site == site else f"{decision.site} "
        names.append(f"{where}s{decision.seed} {decision.blueprint or ''}".rstrip())
        site = decision.site
    return f"{_DONE[first.adaptation]} {', '.join(names)}: {first.reason}"
