"""`esper show`: the full report of a run at a moment."""

import argparse
from collections.abc import Iterable, Iterator, Sequence

from rich.columns import Columns
from rich.console import RenderableType
from rich.filesize import decimal
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from esper.cli.arguments import Subcommands, history_of, log_option, new_command, resume_hint_of, whole_number
from esper.cli.commands.diff import how
from esper.cli.decisions_and_refusals import decision_table, evidence, is_adaptation, refusals, words_of_decisions
from esper.cli.output import Output
from esper.cli.panel import LOOKS, OVER
from esper.cli.text import (
    UNKNOWN,
    count,
    elided,
    hanging,
    learning_rate,
    metric,
    reference,
    rounded,
    separated,
    short_id,
    span,
    sparkline,
    timestamp,
)
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.events.kinds.run import RunFailed, RunFinished, Site
from esper.folds.run_state import BlockedError, ReportRow, digest
from esper.folds.timeline import Life, Span
from esper.history.run_history import FoldedRun
from esper.oona.gone import Gone

_NOT_LEARNED = {"nothing": "learned nothing", "worse than guessing": "ends worse than guessing"}


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "a run at a moment: seeds, lives, decisions, losses, checkpoints"
    parser = new_command(commands, "show", run, words, run=True, json="one JSON object", kafka=True)
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", type=whole_number, metavar="MOMENT", help="the run at this moment")
    when.add_argument("--epoch", type=whole_number, metavar="N", help="the run when this epoch was over")
    parser.add_argument("--how", action="store_true", help="how it was trained: model, optimizer, data loaders, loss, code")
    parser.add_argument("--all", action="store_true", help="also decisions about housekeeping and to do nothing; with --how all there is")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Shows the run; one whose fold is blocked is shown up to there, and the error is raised afterwards."""
    directory, history = history_of(arguments)
    with history:
        folded = history.folded(moment=arguments.at, epoch=arguments.epoch)
        now = arguments.at is None and arguments.epoch is None
        interrupted = resume_hint_of(directory, history, arguments) if now else None
        gone = history.gone
    if arguments.json:
        out.json(_as_json(folded, gone))
    else:
        status = None if interrupted is None else "interrupted"
        if arguments.how:
            out.print(*_heading(folded, status or folded.state.status.value), Text("\nhow it was trained", style="bold"))
            out.print(*how(folded, everything=arguments.all))
        else:
            out.print(*report(folded, out.width, everything=arguments.all, status=status))
        tail = f"{folded.run[-6:]}{log_option(arguments)}"
        if gone:
            out.print(Text(f"\n{gone.words()}"))
        if interrupted is not None:
            out.line(f"\nno process writes this run now, and it has not ended: {interrupted}")
        out.line(f"\nmore: esper replay {tail}", f"      esper log {tail}")
    blocked: BlockedError | None = folded.blocked
    if blocked is not None:
        raise blocked
    return 0


def _as_json(folded: FoldedRun, gone: Gone) -> dict[str, object]:
    """The run as one object; field names are those of the events."""
    state, timeline, telemetry = folded.state, folded.timeline, folded.telemetry
    return {
        "run": folded.run,
        "status": state.status,
        "moment": state.moment,
        "epoch": state.epoch,
        "step": state.step,
        "incarnation": state.incarnation,
        "digest": digest(state),
        "records": telemetry.records,
        "first_time": telemetry.first_time,
        "last_time": telemetry.last_time,
        "started": state.started,
        "described": timeline.described,
        "end": state.end,
        "outcome": timeline.outcome,
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
        "gone": [{"topic": topic, "first": first, "last": last} for topic, first, last in gone.ranges],
        "gone_of_unknown_topics": gone.rows,
        "blocked": None if folded.blocked is None else str(folded.blocked),
    }


def report(folded: FoldedRun, width: int, *, everything: bool = False, status: str | None = None) -> Iterator[RenderableType]:
    """The report of `folded`, section by section; `everything`: housekeeping and decisions for doing nothing too."""
    yield from _heading(folded, status or folded.state.status.value)
    yield from _section("losses", _losses(folded, width), "no epoch was completed yet")
    yield from _section(f"lattice after epoch {folded.state.epoch}", _seeds(folded), "this run has no sites: nothing can grow in it")
    yield from _lives(folded, width)
    yield from _section("decisions", _decisions(folded, width, everything))
    yield from _records(folded)


def _section(title: str, body: Iterable[RenderableType], none: str = "") -> Iterator[RenderableType]:
    """A section with its title; where `body` is empty, the words `none`, or no section."""
    lines = list(body) or ([Text(f"  {none}")] if none else [])
    if lines:
        yield Text(f"\n{title}", style="bold")
        yield from lines


def _indented(renderable: RenderableType, style: str = "") -> Padding:
    return Padding(renderable, (0, 0, 0, 2), style=style)


def _heading(folded: FoldedRun, status: str) -> Iterator[RenderableType]:
    state, telemetry, run = folded.state, folded.telemetry, folded.state.started
    yield Text(f"run {short_id(folded.run)}", style="bold").append(f"  {folded.run}", style="dim")
    if run is None:
        yield Text("  not started: the log holds no RunStarted yet")
        return
    last = state.epochs[-1] if state.epochs else None
    epoch = f"epoch {last.epoch if last else 0} of {UNKNOWN if run.epochs is None else run.epochs}"
    code = f"code {run.code.revision[:12] if run.code.revision else UNKNOWN}{', changed' if run.code.dirty_digest else ''}"
    times = f"{timestamp(telemetry.first_time)} to {timestamp(telemetry.last_time)} UTC"
    parameters = f"parameters {count(run.parameters)} at the start, {count(last.parameters if last else None)} now"
    incarnation = f"incarnation {state.incarnation}"
    yield separated((f"task {run.task}", f"rng {run.rng_seed}", status, epoch, incarnation), indent=2)
    yield separated((times, f"step {count(telemetry.step)}", f"{count(telemetry.records)} records"), indent=2)
    yield separated((parameters, f"device {run.hardware.device}", code), indent=2)
    if run.name or run.tags:
        yield separated(filter(None, (run.name, *(f"#{tag}" for tag in run.tags))), indent=2)
    people = (run.by and f"started by {run.by}", run.approved_by and f"limits approved by {run.approved_by}")
    if any(people):
        yield separated(filter(None, people), indent=2)
    if run.notes:
        yield hanging("  note: ", run.notes)
    yield _indented(f"state at moment {state.moment}: {digest(state)}", "dim")
    yield from _end(folded)


def _end(folded: FoldedRun) -> Iterator[RenderableType]:
    state = folded.state
    if isinstance(state.end, RunFailed):
        yield _indented(f"failed ({state.end.kind}) in {state.end.where}: {state.end.error}", "red")
    elif isinstance(state.end, RunFinished):
        metrics = [metric(name, value) for name, value in state.end.metrics.items()] or ["no metrics"]
        finished = f"finished{' early' if state.end.stopped_early else ''}: {metrics[0]}"
        yield separated((finished, *metrics[1:], f"model {state.end.model_digest[:12]}"), indent=2, style="green")
        outcome = folded.timeline.outcome
        if outcome is not None and outcome.verdict in _NOT_LEARNED:
            told = f"{_NOT_LEARNED[outcome.verdict]}: validation loss {rounded(outcome.loss)}, of guessing {rounded(outcome.guessing)}"
            yield _indented(told, "yellow")


def _losses(folded: FoldedRun, width: int) -> Iterator[RenderableType]:
    """Both curves, then the best loss, the learning rate and the metrics of the last epoch."""
    rows, completed = folded.state.epochs, folded.timeline.completed
    if not rows:
        return
    train: list[float | None] = [row.train.loss for row in rows]
    valid = [None if row.validation is None else row.validation.loss for row in rows]
    last = Column(no_wrap=True, justify="right", min_width=9)
    grid = Table.grid(Column(no_wrap=True), last, Column(no_wrap=True, min_width=22), padding=(0, 2, 0, 0))
    for name, values in (("train", train), ("valid", valid)):
        grid.add_row(f"  {name}", rounded(values[-1]), span(values), Text(sparkline(values, max(10, width - 48)), style="cyan"))
    yield grid
    if completed is not None:
        best, validation = completed.system, rows[-1].validation
        since = f"best valid {UNKNOWN}" if best.best_loss is None else f"best valid {rounded(best.best_loss)} @{best.best_epoch}"
        metrics = ["not validated"] if validation is None else [metric(*one) for one in validation.metrics.items()] or ["no metrics"]
        yield separated((since, f"lr {learning_rate(next(iter(completed.learning_rates), None))}", *metrics), indent=2)


def _seeds(folded: FoldedRun) -> Iterator[RenderableType]:
    sites = folded.state.sites
    if sites:
        yield _indented(lattice(sites, folded.state.seeds))
    for site in sites:
        words = f"{site.name}: {site.layer}, {site.inputs} in, {site.outputs} out; {', '.join(site.blueprints)}"
        yield _indented(words, "dim")


def _lives(folded: FoldedRun, width: int) -> Iterator[RenderableType]:
    lives, epoch = folded.timeline.lives, folded.state.epoch
    heads = [f"{life.site} s{life.seed} {life.blueprint or '(blueprint unknown)'} @{life.life}" for life in lives]
    room = min(38, max(map(len, heads), default=0))
    axis, columns = epoch + 1, max(20, width - room - 16)
    scale = scale_of(axis, columns)
    grid = Table.grid(*(Column(no_wrap=True) for _ in range(3)), padding=(0, 2, 0, 0))
    grid.add_row("", Text(ruler(axis, columns), style="dim"), "")
    lanes = [lane(life, epoch, axis, columns) for life in lives]
    for life, head, drawn in zip(lives, heads, lanes, strict=True):
        style = LOOKS[life.stage].style
        ending = "undone" if life.undone else _stage_word(life.stage)
        grid.add_row(Text(elided(head, room), style=style), drawn, Text(ending, style=style))
    body = (_indented(grid), _indented(legend("".join(drawn.plain for drawn in lanes)))) if lives else ()
    title = "lives" if scale == 1 or not lives else f"lives, {scale} epochs a character"
    yield from _section(title, body, "no seed has germinated yet")


def _decisions(folded: FoldedRun, width: int, everything: bool) -> Iterator[RenderableType]:
    """Decisions with their numbers, refused ones included; housekeeping that succeeded is counted unless `everything` is asked for."""
    made, counts = list(folded.timeline.decisions), folded.state.control.counts
    shown = [one for one in made if everything or is_adaptation(one) or one.fate not in ("applied", "recorded")]
    if not made:
        yield Text("  none was made yet")
    for one in shown:
        yield decision_table([one], width, reasons=False)
        words = f"{reference(one.id)} from {evidence(one.decision)}: {one.decision.reason}"
        yield Padding(f"{words}\n{one.detail}" if one.detail else words, (0, 0, 0, 6), style="dim")
    if shown:
        yield words_of_decisions()
    if len(made) > len(shown):
        hidden = f"{len(made) - len(shown)} of housekeeping or for doing nothing are not shown: --all shows them"
        yield _indented(hidden, "dim")
    yield _indented(f"{sum(counts.made.values())} made; refused by the gate: {refusals(folded.state)}", "dim")
    outcomes = f"{counts.applied} applied, {counts.commands_refused} refused, {counts.commands_failed} failed"
    yield _indented(f"{counts.issued} commands: {outcomes}", "dim")


def _records(folded: FoldedRun) -> Iterator[RenderableType]:
    """Field reports, kept checkpoints, notes, and facts that do not fit those before them."""
    state = folded.state
    yield from _section("field reports", map(_field_report, state.field_reports))
    checkpoints = (
        Text(f"  {row.epoch:>4}  {row.name}  {row.digest[:12]}  {decimal(row.size_bytes)}  {row.reason.replace('_', ' ')}")
        for row in state.checkpoints
    )
    yield from _section("checkpoints kept", checkpoints, "none")
    yield from _section("events of the run", (hanging(f"  {note.epoch:>4}  @{note.moment}  ", note.text) for note in folded.timeline.notes))
    yield from _section("irregular", (_indented(f"@{row.moment}  {row.what}", "red") for row in state.irregularities))


def _field_report(report: ReportRow) -> Table:
    event = report.event
    change = f"{rounded(event.metric_before)} → {rounded(event.metric_after)}"
    words = f"{event.site} s{event.seed} {event.blueprint} @{event.life}  {event.outcome.lower()}  valid {change}"
    return hanging(f"  {report.epoch:>4}  ", words)


def lane(life: Life, epoch: int, axis: int, width: int) -> Text:
    """`life` along an axis of `axis` epochs in at most `width` characters; each shows the latest stage within its share of epochs.

    A stage entered at the end of an epoch is shown from the next on, so what is in force after the last epoch stands at `epoch` + 1. An
    ended life shows its end once and nothing after it.
    """
    text = Text()
    scale = scale_of(axis, width)
    for first in range(1, axis + 1, scale):
        stay = _during(life, first, first + scale - 1, epoch + 1)
        look = LOOKS[Stage.DORMANT if stay is None else stay.stage]
        text.append(look.glyph, style=look.style)
    return text


def scale_of(axis: int, width: int) -> int:
    """Epochs per character on an axis of `axis` epochs in `width` characters."""
    return max(1, -(-axis // width))


def _during(life: Life, first: int, last: int, now: int) -> Span | None:
    found = None
    for stay in life.spans:
        ends = now if stay.to_epoch is None else stay.to_epoch
        if stay.stage in OVER:
            ends = stay.from_epoch + 1
        if ends > stay.from_epoch and stay.from_epoch + 1 <= last and ends >= first:
            found = stay
    return found


def ruler(axis: int, width: int) -> str:
    """Marks for the axis that `lane` draws on: a number where its epoch stands, at most one per ten characters."""
    scale = scale_of(axis, width)
    return (f"{1:<9}" + "".join(f"{(column + 1) * scale:<10}" for column in range(9, -(-axis // scale), 10))).rstrip()


def legend(drawn: str) -> Columns:
    """The glyphs in `drawn` with their stages."""
    looks = [look for look in LOOKS.values() if look.glyph in drawn.replace(" ", "")]
    return Columns([Text(look.glyph, style=look.style).append(f" {look.word}", style="dim") for look in looks])


def lattice(sites: Sequence[Site], rows: Sequence[SeedRow]) -> Table:
    """A row per site, a column per slot: stage and blueprint of its seed; a slot that the log does not know is unknown."""
    known = {(row.site, row.seed): row for row in rows}
    slots = max((site.slots for site in sites), default=0)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(no_wrap=True)
    for slot in range(slots):
        table.add_column(f"s{slot}", no_wrap=True, overflow="ellipsis")
    for site in sites:
        table.add_row(site.name, *(_slot(known.get((site.name, slot))) for slot in range(site.slots)))
    return table


def _slot(row: SeedRow | None) -> Text:
    if row is None:
        return Text("unknown", style="dim")
    if row.stage is Stage.DORMANT:
        return Text("·", style="dim")
    embargo = "" if row.embargo_until is None else f" until {row.embargo_until}"
    return Text(f"{_stage_word(row.stage)} {row.blueprint or ''}{embargo}", style=LOOKS[row.stage].style)


def _stage_word(stage: Stage) -> str:
    """A stage's name in small letters."""
    return stage.value.lower().replace("_", "-")
