"""`esper train` and `esper resume`: the only commands that import torch, and only once they run."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue
from rich.text import Text

from esper.cli.arguments import Subcommands, add_json, add_log, add_run, directory_of, log_of, log_option, whole_number
from esper.cli.live import live_display
from esper.cli.outcome import TITLES, comparison, growth_summary
from esper.cli.output import Output
from esper.cli.text import metric, plural, separated, short_id
from esper.errors import SettingsError
from esper.events.envelope import RunId
from esper.history.resume import Variant, is_resumable, resume_hint
from esper.observer.leader import start_watchers
from esper.oona.directory import Directory

if TYPE_CHECKING:
    from esper.api.task import Task
    from esper.demo.comparison import Compared
    from esper.processes.train import Result, RunSettings

INTERRUPTED = 130


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    train = commands.add_parser("train", help="train a task; all that happens is in the log")
    train.add_argument("task", metavar="TASK", help="a task's name (digits, mnist1d), module:attribute, or a TOML file")
    train.add_argument("--epochs", type=whole_number, metavar="N", help="how many epochs (trainer.epochs)")
    train.add_argument("--rng-seed", type=whole_number, metavar="N", help="what all randomness is derived from (trainer.rng_seed)")
    train.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting by its dotted name; repeatable")
    train.add_argument("--compare", action="store_true", help="afterwards train the host alone and the static nets, and compare")
    add_log(train)
    add_json(train, "the outcome as one JSON object, without a display")
    _add_observe(train)
    train.set_defaults(command=_run_train)
    demo = commands.add_parser("demo", help="train digits, and compare: the same as `train digits --compare`")
    add_log(demo)
    add_json(demo, "the outcome as one JSON object, without a display")
    _add_observe(demo)
    demo.set_defaults(command=_run_train, task="digits", epochs=None, rng_seed=None, set=[], compare=True)
    resume = commands.add_parser("resume", help="go on with a run that was interrupted")
    add_run(resume)
    add_json(resume, "the outcome as one JSON object, without a display")
    _add_observe(resume)
    resume.set_defaults(command=_run_resume)


def _add_observe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-observe", action="store_true", help="start neither an observer nor an agent in the background")


def _run_train(arguments: argparse.Namespace, out: Output) -> int:
    """Trains a new run. Returns 130 where it was stopped; the last line is then the command that resumes it."""
    _load_torch(out)
    from esper.api.task import recipe_of
    from esper.demo.comparison import compare, require_comparable
    from esper.processes.train import fresh_run_id, train

    task, settings = _task_and_settings(arguments)
    if arguments.compare:
        require_comparable(task)
    directory = Directory(log_of(arguments), create=True)
    run = fresh_run_id()
    recipe = recipe_of(task, settings)
    trained = _conduct(lambda: train(recipe, settings, directory, run), arguments, out, directory, run)
    if trained is None:
        return INTERRUPTED

    def say(variant: Variant) -> None:
        if not arguments.json:
            out.line(Text(f" now {TITLES[variant]}, with the same data and steps", style="dim"))

    rows: list[Compared] = []
    try:
        whole = _gather(rows, compare(task, settings, directory, trained, say=say) if arguments.compare else ())
    finally:
        # Whatever became of the comparison, the run that was asked for is there.
        _conclude(trained, rows, arguments, out)
    return 0 if whole else INTERRUPTED


def _run_resume(arguments: argparse.Namespace, out: Output) -> int:
    """Goes on with a run from its last checkpoint. Returns 130 where it was stopped again."""
    _load_torch(out)
    from esper.api.task import recipe_of
    from esper.demo.tasks import find_task
    from esper.processes.train import resume, run_settings, run_started

    directory = directory_of(arguments)
    run = directory.resolve(arguments.run)
    with directory.open(run) as log:
        begun = run_started(log)
    if not is_resumable(begun.task):
        raise SettingsError(f"run {run}: {resume_hint(run, begun.task, log_option(arguments))}")
    sys.path.insert(0, str(Path.cwd()))
    task = find_task(begun.task)
    settings = run_settings(begun.settings)
    recipe = recipe_of(task, settings)
    trained = _conduct(lambda: resume(recipe, settings, directory, run), arguments, out, directory, run)
    if trained is None:
        return INTERRUPTED
    _conclude(trained, [], arguments, out)
    return 0


def _load_torch(out: Output) -> None:
    """Imports what training needs; that takes seconds, so a terminal says what it waits for. Raises SettingsError where it is missing."""
    if find_spec("torch") is None:
        raise SettingsError('training needs torch, and it is not installed: pip install "esper-training[train]"')
    with out.console.status("loading torch", refresh_per_second=4) if out.interactive else nullcontext():
        import_module("esper.demo.comparison")


def _task_and_settings(arguments: argparse.Namespace) -> "tuple[Task, RunSettings]":
    from esper.api.task import read_task_file
    from esper.demo.tasks import find_task
    from esper.processes.train import run_settings

    name, written = read_task_file(Path(arguments.task)) if arguments.task.endswith(".toml") else (arguments.task, {})
    # A console script does not look for modules where it was called; a task of one's own is expected there.
    sys.path.insert(0, str(Path.cwd()))
    task = find_task(name)
    options = {"trainer.epochs": arguments.epochs, "trainer.rng_seed": arguments.rng_seed}
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


def _conduct(
    training: "Callable[[], Result]", arguments: argparse.Namespace, out: Output, directory: Directory, run: RunId
) -> "Result | None":
    """Trains with the display on. None where it was asked to stop, which has been said then."""
    from esper.tolaria.trainer import Interrupted

    if not arguments.no_observe:
        start_watchers(directory)
    display = nullcontext() if arguments.json else live_display(directory, run, out)
    try:
        with display:
            return training()
    except Interrupted as stopped:
        print(f"esper: {stopped}; all of it is in the log. To go on:", file=sys.stderr)
        print(f"esper resume {run[-6:]}{log_option(arguments)}", file=sys.stderr)
        return None


def _gather(rows: "list[Compared]", variants: "Iterable[Compared]") -> bool:
    """Puts each way of training into `rows` as it comes. False where it was asked to stop, which has been said then."""
    from esper.tolaria.trainer import Interrupted

    try:
        # One by one, so that those that came before an interruption stay.
        rows.extend(variants)
    except (Interrupted, KeyboardInterrupt):
        print("esper: interrupted while comparing; the grown run is whole, and nothing has to go on", file=sys.stderr)
        return False
    return True


def _conclude(result: "Result", rows: "list[Compared]", arguments: argparse.Namespace, out: Output) -> None:
    if arguments.json:
        out.json({"run": result.run, "parameters": result.host.parameters(), "metrics": result.metrics, "compared": rows})
        return
    out.print("", *([comparison(rows)] if rows else []))
    metrics = (metric(name, value) for name, value in result.metrics.items())
    out.print(separated((f"run {short_id(result.run)}", plural(result.host.parameters(), "parameter"), *metrics), indent=1))
    if rows:
        with result.history as history:
            out.print("\n what grew, told again from its log:", *growth_summary(history.known))
    name, log = result.run[-6:], log_option(arguments)
    out.line(Text(" every claim above is in the log:", style="dim"))
    out.lines(f"   esper {command.format(name)}{log}" for command in ("show {}", "replay {}", "log {} --topic decisions"))
