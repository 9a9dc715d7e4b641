"""`esper diff`: settings and outcomes of two runs side by side; and how a run was trained, for `esper show --how`."""

import argparse
import json
from collections.abc import Iterable, Iterator

from pydantic import JsonValue
from rich.console import RenderableType
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from esper.cli.arguments import RUN_HELP, Subcommands, directory_of, new_command
from esper.cli.output import Output
from esper.cli.text import UNKNOWN, at_joints, count, hanging, short_id
from esper.events.kinds.run import RunStarted
from esper.events.kinds.training_description import Component, Loader, Source, TrainingDescribed
from esper.history.comparing import ComparedValue, module_words, side_by_side
from esper.history.run_history import FoldedRun, History
from esper.history.run_list import resolve_run
from esper.words import plural


def add(commands: Subcommands) -> None:
    """Adds the command."""
    parser = new_command(commands, "diff", run, "settings and outcomes of two runs, side by side", json="one JSON object", kafka=True)
    parser.add_argument("one", metavar="RUN", help=RUN_HELP)
    parser.add_argument("other", metavar="RUN", help="another run")
    parser.add_argument("--all", action="store_true", help="also the settings that are the same")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Compares the runs."""
    directory = directory_of(arguments)
    folded: list[FoldedRun] = []
    for text in (arguments.one, arguments.other):
        identity = resolve_run(directory, text)
        with History(directory.open(identity), identity) as history:
            folded.append(history.folded())
    found = side_by_side(*folded)
    settings = [row for row in found.settings if arguments.all or row.differs]
    if arguments.json:
        rows = {"settings": [row._asdict() for row in settings], "outcomes": [row._asdict() for row in found.outcomes]}
        out.json({"runs": found.runs, **rows, "same_settings": sum(not row.differs for row in found.settings)})
        return 0
    out.print(_table("settings", settings, found.runs, out.width))
    same = sum(not row.differs for row in found.settings)
    out.print(Text(f"  {plural(same, 'setting')} the same{'' if arguments.all else ': --all shows them'}", style="dim"), Text())
    out.print(_table("outcomes", found.outcomes, found.runs, out.width))
    return 0


def _table(title: str, rows: Iterable[ComparedValue], runs: tuple[str, str], width: int) -> Table:
    """A row a name, with its value in each run; those that differ stand out."""
    names = width * 2 // 5
    values = (width - names) // 2 - _GAP
    headings = (Column(short_id(one), width=values) for one in runs)  # type: ignore[arg-type] # ids of runs
    table = Table(Column(title, width=names - _GAP), *headings, box=None, padding=(0, _GAP, 0, 0), header_style="bold")
    for row in rows:
        both = (Text(at_joints(_value(value), values)) for value in (row.one, row.other))
        table.add_row(at_joints(row.name, names - _GAP), *both, style="" if row.differs else "dim")
    return table


def _value(value: JsonValue) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def how(folded: FoldedRun, *, everything: bool) -> Iterator[RenderableType]:
    """The training of a run, part by part; `everything`: all modules, options and texts of the source too."""
    started, described = folded.timeline.started, folded.timeline.described
    if started is None or described is None:
        yield Text("  the log does not say how it was trained")
        return
    yield from _model(described, everything=everything)
    yield hanging("  optimizer  ", _component(described.optimizer, {}))
    for number, group in enumerate(described.groups):
        of = "all parameters" if group.parameters is None else ", ".join(group.parameters)
        yield hanging(f"    group {number}  ", f"{of}: {_options(_told(group.options, everything=everything))}")
    scheduler = "none" if described.scheduler is None else _component(described.scheduler, described.scheduler.options)
    yield hanging("  scheduler  ", scheduler)
    yield from _minimised(started, described)
    if described.policy is not None:
        yield hanging("  policy     ", _component(described.policy, described.policy.options))
    for loader in described.loaders:
        yield hanging(f"  {loader.name:<9}  ", _loader(loader, everything=everything))
    yield hanging("  precision  ", _precision(described))
    clip, accumulate = started.settings.get("trainer.clip"), started.settings.get("trainer.accumulate")
    clipped = "gradients not clipped" if clip is None else f"gradient norm clipped at {_value(clip)}"
    yield hanging("  step       ", f"{clipped}, micro-batches a step: {_value(accumulate)}")
    yield hanging("  seed       ", f"rng {started.rng_seed}, {started.epochs or UNKNOWN} epochs, device {started.hardware.device}")
    for name, value in started.config.items():
        yield hanging("  config     ", f"{name} {_value(value)}")
    yield from _code(folded, described.sources, everything=everything)


def _minimised(started: RunStarted, described: TrainingDescribed) -> Iterator[RenderableType]:
    for title, minimised in (("loss", described.loss), ("objective", described.objective)):
        if minimised is not None:
            yield hanging(f"  {title:<9}  ", _component(minimised, minimised.options))
    if started.pairs is not None:
        yield hanging("  pairs      ", f"{started.pairs.count} of {started.pairs.of.replace('_', ' ')}: {started.pairs.reason}")
    for name, one in described.metrics.items():
        yield hanging("  metric     ", f"{name}: {_component(one, one.options)}")


def _model(described: TrainingDescribed, *, everything: bool) -> Iterator[RenderableType]:
    model = described.model
    sizes = f"{plural(model.parameters, 'parameter')}, {count(model.trainable)} trainable"
    yield hanging("  model      ", f"{_short(model.kind)}: {sizes}, structure {model.digest[:12]}")
    shown = [row for row in model.modules if row.name and (everything or row.shapes or row.same_as)]
    for row in shown if everything else shown[:_MODULES]:
        yield hanging(f"    {row.name}  ", module_words(row))
    hidden = len(model.modules) - 1 - (len(shown) if everything else min(len(shown), _MODULES)) + model.left_out
    if hidden > 0:
        words = "beyond the log's limit" if everything else "not shown: --how --all shows them"
        yield Text(f"    {plural(hidden, 'module')} {words}", style="dim")


_GAP = 2
_MODULES = 12
_SAID = ("lr", "initial_lr", "weight_decay", "momentum", "nesterov", "betas", "alpha", "eps")


def _told(options: dict[str, JsonValue], *, everything: bool) -> dict[str, JsonValue]:
    """The options of a group that are asked for most; `everything`: all."""
    return options if everything else {name: options[name] for name in _SAID if name in options}


def _component(one: Component, options: dict[str, JsonValue]) -> str:
    digest = "" if one.digest is None else f", source {one.digest[:12]}"
    return f"{_short(one.kind)}{': ' if options else ''}{_options(options)}{digest}"


def _short(kind: str) -> str:
    """The name of a class or function; torch's and Python's own without the module."""
    return kind.rpartition(".")[2] if kind.startswith(("torch.", "builtins.")) else kind


def _options(options: dict[str, JsonValue]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in options.items())


def _loader(loader: Loader, *, everything: bool) -> str:
    parts = [_short(loader.kind)]
    parts += [] if loader.batch_size is None else [f"batches of {loader.batch_size}"]
    parts += [] if loader.batches is None else [f"{count(loader.batches)} a pass"]
    parts += [] if loader.sampler is None else [_component(loader.sampler, loader.sampler.options if everything else {})]
    parts += [] if loader.drop_last is None else ["the last is dropped if it is not full" if loader.drop_last else "the last is kept"]
    parts += [] if loader.workers is None else [plural(loader.workers, "worker")]
    parts += [] if loader.dataset is None else [f"of {_short(loader.dataset.kind)}"]
    return ", ".join((*parts, *([_options(loader.options)] if everything and loader.options else [])))


def _precision(described: TrainingDescribed) -> str:
    found = described.precision
    autocast = "no autocast" if found.autocast is None else f"autocast {found.autocast}"
    return f"{', '.join(found.parameters) or UNKNOWN}, {autocast}, products of float32 {found.float32_matmul}"


def _code(folded: FoldedRun, sources: tuple[Source, ...] | None, *, everything: bool) -> Iterator[RenderableType]:
    started = folded.timeline.started
    assert started is not None, "the caller has looked"
    code = started.code
    changed = "" if code.dirty_digest is None else f", changed ({code.dirty_digest[:12]})"
    yield hanging("  code       ", f"revision {code.revision or UNKNOWN}{changed}")
    yield hanging("  command    ", "not recorded" if code.argv is None else " ".join(code.argv) or UNKNOWN)
    if sources is None:
        yield hanging("  source     ", "not recorded, as asked")
    for source in sources or ():
        cut = "" if source.complete else ", cut" if source.text is not None else ", not kept"
        masked = f", {plural(source.masked, 'secret')} masked" if source.masked else ""
        yield hanging("  source     ", f"{source.name}: {decimal(source.size_bytes)}{cut}{masked}, {source.digest[:12]}")
        if everything and source.text is not None:
            yield from (Text(f"    {line}", style="dim") for line in source.text.splitlines())
