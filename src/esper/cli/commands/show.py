"""`esper show`: the full report of a run at a moment."""

import argparse
import math
from collections.abc import Iterator

from rich.console import RenderableType
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from esper.cli.arguments import Subcommands, add_command, history_of, log_option, resume_hint_of, whole_number
from esper.cli.decisions import decision_table, evidence, is_adaptation, refusals
from esper.cli.lanes import LOOKS, lane, lattice, legend, ruler, scale_of, stage_word
from esper.cli.output import Output
from esper.cli.text import (
    UNKNOWN,
    count,
    elided,
    hanging,
    learning_rate,
    metric,
    number,
    reference,
    separated,
    short_id,
    sparkline,
    timestamp,
)
from esper.events.kinds.run import RunFailed, RunFinished
from esper.folds.run_state import BlockedError, digest
from esper.folds.timeline import Life
from esper.history.view import Reading


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "a run at a moment: seeds, lives, decisions, losses, checkpoints"
    parser = add_command(commands, "show", run, words, run=True, json="one JSON object")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", type=whole_number, metavar="MOMENT", help="as it stood at this moment")
    when.add_argument("--epoch", type=whole_number, metavar="N", help="as it stood when this epoch was over")
    parser.add_argument("--all", action="store_true", help="housekeeping and decisions for nothing too")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Shows the run; one whose fold is blocked is shown up to there, and the error is raised afterwards."""
    with history_of(arguments) as history:
        reading = history.reading(moment=arguments.at, epoch=arguments.epoch)
        now = arguments.at is None and arguments.epoch is None
        interrupted = resume_hint_of(history, arguments) if now else None
    if arguments.json:
        out.json(_as_json(reading))
    else:
        out.print(*report(reading, out.width, everything=arguments.all))
        tail = f"{reading.run[-6:]}{log_option(arguments)}"
        if interrupted is not None:
            out.line(f"\nno process writes this run now, and it has not ended: {interrupted}")
        out.lines((f"\nmore: esper replay {tail}", f"      esper log {tail}"))
    blocked: BlockedError | None = reading.blocked
    if blocked is not None:
        raise blocked
    return 0


def _as_json(reading: Reading) -> dict[str, object]:
    """The run as one object; field names are those of the events."""
    state, timeline, pulse = reading.state, reading.timeline, reading.pulse
    return {
        "run": reading.run,
        "status": state.status,
        "moment": state.moment,
        "epoch": state.epoch,
        "step": state.step,
        "incarnation": state.incarnation,
        "digest": digest(state),
        "records": pulse.records,
        "first_time": pulse.first_time,
        "last_time": pulse.last_time,
        "started": state.started,
        "end": state.end,
        "epochs": state.epochs,
        "seeds": [{**dict(slot.row), "last_command": slot.command} for slot in state.slots.values()],
        "lives": timeline.lives,
        "decisions": timeline.decisions,
        "counts": state.control.counts,
        "field_reports": state.field_reports,
        "checkpoints": state.checkpoints,
        "rollbacks": state.rollbacks,
        "dropped": state.dropped,
        "notes": timeline.notes,
        "irregularities": [row._asdict() for row in state.irregularities],
        "blocked": None if reading.blocked is None else str(reading.blocked),
    }


def report(reading: Reading, width: int, *, everything: bool = False) -> Iterator[RenderableType]:
    """The report of `reading`, section by section; `everything`: housekeeping and decisions for doing nothing too."""
    yield from _heading(reading)
    yield from _losses(reading, width)
    yield from _seeds(reading)
    yield from _lives(reading, width)
    yield from _decisions(reading, width, everything)
    yield from _records(reading)


def _section(title: str) -> Text:
    return Text(f"\n{title}", style="bold")


def _indented(renderable: RenderableType, style: str = "") -> Padding:
    return Padding(renderable, (0, 0, 0, 2), style=style)


def _heading(reading: Reading) -> Iterator[RenderableType]:
    state, pulse, run = reading.state, reading.pulse, reading.state.started
    yield Text(f"run {short_id(reading.run)}", style="bold").append(f"  {reading.run}", style="dim")
    if run is None:
        yield Text("  not started: the log holds no RunStarted yet")
        return
    last = state.epochs[-1] if state.epochs else None
    epoch = f"epoch {last.epoch if last else 0} of {UNKNOWN if run.epochs is None else run.epochs}"
    code = f"code {run.code.revision[:12] if run.code.revision else UNKNOWN}{', changed' if run.code.dirty_digest else ''}"
    times = f"{timestamp(pulse.first_time)} to {timestamp(pulse.last_time)} UTC"
    parameters = f"parameters {count(run.parameters)} at the start, {count(last.parameters if last else None)} now"
    incarnation = f"incarnation {state.incarnation}"
    yield separated((f"task {run.task}", f"rng {run.rng_seed}", state.status.value, epoch, incarnation), indent=2)
    yield separated((times, f"step {count(pulse.step)}", f"{count(pulse.records)} records"), indent=2)
    yield separated((parameters, f"device {run.hardware.device}", code), indent=2)
    yield _indented(f"state at moment {state.moment}: {digest(state)}", "dim")
    if isinstance(state.end, RunFailed):
        yield _indented(f"failed ({state.end.kind}) in {state.end.where}: {state.end.error}", "red")
    elif isinstance(state.end, RunFinished):
        metrics = [metric(name, value) for name, value in state.end.metrics.items()] or ["no metrics"]
        finished = f"finished{' early' if state.end.stopped_early else ''}: {metrics[0]}"
        yield separated((finished, *metrics[1:], f"model {state.end.model_digest[:12]}"), indent=2, style="green")


def _losses(reading: Reading, width: int) -> Iterator[RenderableType]:
    rows, completed = reading.state.epochs, reading.timeline.completed
    yield _section("losses")
    if not rows:
        yield Text("  no epoch was completed yet")
        return
    train: list[float | None] = [row.train.loss for row in rows]
    valid = [None if row.validation is None else row.validation.loss for row in rows]
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right", min_width=9)
    grid.add_column(no_wrap=True, min_width=22)
    for name, values in (("train", train), ("valid", valid)):
        finite = [value for value in values if value is not None and math.isfinite(value)]
        span = f"{number(min(finite))} .. {number(max(finite))}" if finite else UNKNOWN
        grid.add_row(f"  {name}", number(values[-1]), span, Text(sparkline(values, max(10, width - 48)), style="cyan"))
    yield grid
    if completed is not None:
        best, validation = completed.system, rows[-1].validation
        since = f"best valid {UNKNOWN}" if best.best_loss is None else f"best valid {number(best.best_loss)} @{best.best_epoch}"
        metrics = ["not validated"] if validation is None else [metric(*one) for one in validation.metrics.items()] or ["no metrics"]
        yield separated((since, f"lr {learning_rate(next(iter(completed.learning_rates), None))}", *metrics), indent=2)


def _seeds(reading: Reading) -> Iterator[RenderableType]:
    sites = reading.state.sites
    yield _section(f"lattice after epoch {reading.state.epoch}")
    if not sites:
        yield Text("  this run has no sites: nothing can grow in it")
        return
    yield _indented(lattice(sites, reading.state.seeds))
    for site in sites:
        words = f"{site.name}: {site.layer}, {site.inputs} in, {site.outputs} out; {', '.join(site.blueprints)}"
        yield _indented(words, "dim")


def _lives(reading: Reading, width: int) -> Iterator[RenderableType]:
    lives, epoch = reading.timeline.lives, reading.state.epoch
    if not lives:
        yield _section("lives")
        yield Text("  no seed has germinated yet")
        return
    heads = [f"{life.site} s{life.seed} {life.blueprint or '(blueprint unknown)'} @{life.life}" for life in lives]
    room = min(38, max(map(len, heads)))
    axis, columns = epoch + 1, max(20, width - room - 16)
    scale = scale_of(axis, columns)
    yield _section("lives" if scale == 1 else f"lives, {scale} epochs a character")
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    grid.add_row("", Text(ruler(axis, columns), style="dim"), "")
    lanes = [lane(life, epoch, axis, columns) for life in lives]
    for life, head, drawn in zip(lives, heads, lanes, strict=True):
        style = LOOKS[life.stage].style
        grid.add_row(Text(elided(head, room), style=style), drawn, Text(_ending(life), style=style))
    yield _indented(grid)
    yield _indented(legend("".join(drawn.plain for drawn in lanes)))


def _ending(life: Life) -> str:
    return "undone" if life.undone else stage_word(life.stage)


def _decisions(reading: Reading, width: int, everything: bool) -> Iterator[RenderableType]:
    """Decisions with their numbers, refused ones included; housekeeping that succeeded is counted unless `everything` is asked for."""
    made, counts = list(reading.timeline.decisions), reading.state.control.counts
    shown = [one for one in made if everything or is_adaptation(one) or one.fate not in ("applied", "recorded")]
    yield _section("decisions")
    if not made:
        yield Text("  none was made yet")
    for one in shown:
        yield decision_table([one], width, reasons=False)
        yield Padding(f"{reference(one.id)} from {evidence(one.decision)}: {one.decision.reason}", (0, 0, 0, 6), style="dim")
        if one.detail:
            yield Padding(one.detail, (0, 0, 0, 6), style="dim")
    if len(made) > len(shown):
        hidden = f"{len(made) - len(shown)} of housekeeping or for doing nothing are not shown: --all shows them"
        yield _indented(hidden, "dim")
    yield _indented(f"{sum(counts.made.values())} made; refused by the gate: {refusals(reading.state)}", "dim")
    outcomes = f"{counts.applied} applied, {counts.commands_refused} refused, {counts.commands_failed} failed"
    yield _indented(f"{counts.issued} commands: {outcomes}", "dim")


def _records(reading: Reading) -> Iterator[RenderableType]:
    """Field reports, kept checkpoints, notes, and facts that do not fit those before them."""
    state = reading.state
    if state.field_reports:
        yield _section("field reports")
    for report in state.field_reports:
        event = report.event
        change = f"{number(event.metric_before)} → {number(event.metric_after)}"
        words = f"{event.site} s{event.seed} {event.blueprint} @{event.life}  {event.outcome.lower()}  valid {change}"
        yield hanging(f"  {report.epoch:>4}  ", words)
    yield _section("checkpoints kept")
    if not state.checkpoints:
        yield Text("  none")
    for row in state.checkpoints:
        yield Text(f"  {row.epoch:>4}  {row.name}  {row.digest[:12]}  {decimal(row.size_bytes)}  {row.reason.replace('_', ' ')}")
    if reading.timeline.notes:
        yield _section("events of the run")
    for note in reading.timeline.notes:
        yield hanging(f"  {note.epoch:>4}  @{note.moment}  ", note.text)
    if state.irregularities:
        yield _section("irregular")
    for irregularity in state.irregularities:
        yield _indented(f"@{irregularity.moment}  {irregularity.what}", "red")
