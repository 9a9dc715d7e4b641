"""The full report of a run at a moment, for `esper show`: what it is, lattice, lanes, losses, decisions, reports, checkpoints, notes."""

import math
from collections.abc import Iterator, Sequence

from rich.filesize import decimal
from rich.text import Text

from esper.cli.drawing import decisions
from esper.cli.drawing.lanes import LOOKS, lane, lattice, legend, name_of, ruler, scale_of
from esper.cli.drawing.text import UNKNOWN, clock, count, hanging, listed, metric, number, rate, short, sparkline, within, wrapped
from esper.events.kinds.run import RunFailed, RunFinished
from esper.folds.control import DecisionRow
from esper.folds.run import EpochRow
from esper.folds.timeline import Life
from esper.history.view import Reading


def report(reading: Reading, digest: str, width: int, *, everything: bool = False) -> Iterator[Text]:
    """The report of `reading`, section by section; `everything`: housekeeping and decisions for nothing too."""
    yield from _heading(reading, digest, width)
    yield from losses(reading, width)
    yield from seeds(reading, width)
    yield from lanes(reading, width)
    yield from decided(reading, width, everything)
    yield from reports(reading, width)
    yield from checkpoints(reading)
    yield from notes(reading, width)
    yield from irregular(reading, width)


def _heading(reading: Reading, digest: str, width: int) -> Iterator[Text]:
    """What the run is, where it stands, and how to see more."""
    state, pulse, run = reading.state, reading.pulse, reading.state.started
    yield Text(f"run {short(reading.run)}", style="bold").append(f"  {reading.run}", style="dim")
    if run is None:
        yield Text("  not started: the log holds no RunStarted yet")
        return
    planned = UNKNOWN if run.epochs is None else str(run.epochs)
    done = state.epochs[-1].epoch if state.epochs else 0
    grown = state.epochs[-1].parameters if state.epochs else None
    code = f"code {run.code.revision[:12] if run.code.revision else UNKNOWN}{', changed' if run.code.dirty_digest else ''}"
    times = f"{clock(pulse.first_time)} to {clock(pulse.last_time)} UTC"
    parts = (
        f"task {run.task}",
        f"rng {run.rng_seed}",
        state.status.value,
        f"epoch {done} of {planned}",
        f"incarnation {state.incarnation}",
    )
    yield from map(Text, listed(parts, width, 2))
    yield from map(Text, listed((times, f"step {count(pulse.step)}", f"{count(pulse.records)} records"), width, 2))
    parameters = f"parameters {count(run.parameters)} at the start, {count(grown)} now"
    yield from map(Text, listed((parameters, f"device {run.hardware.device}", code), width, 2))
    yield from (Text(line, style="dim") for line in wrapped(f"state at moment {state.moment}: {digest}", width, 2))
    if isinstance(state.end, RunFailed):
        failed = f"failed ({state.end.kind}) in {state.end.where}: {state.end.error}"
        yield from (Text(line, style="red") for line in wrapped(failed, width, 2))
    elif state.end is not None:
        yield from (Text(line, style="green") for line in listed(_finished(state.end), width, 2))


def _finished(end: RunFinished) -> list[str]:
    metrics = [metric(name, value) for name, value in end.metrics.items()] or ["no metrics"]
    return [f"finished{' early' if end.stopped_early else ''}: {metrics[0]}", *metrics[1:], f"model {end.model_digest[:12]}"]


def losses(reading: Reading, width: int) -> Iterator[Text]:
    """Training and validation loss over the epochs."""
    rows = reading.state.epochs
    yield _title("losses")
    if not rows:
        yield Text("  no epoch was completed yet")
        return
    train: list[float | None] = [row.train.loss for row in rows]
    valid = [None if row.validation is None else row.validation.loss for row in rows]
    curve = max(10, width - 48)
    for name, values in (("train", train), ("valid", valid)):
        finite = [value for value in values if value is not None and math.isfinite(value)]
        span = f"{number(min(finite))} .. {number(max(finite))}" if finite else UNKNOWN
        yield Text(f"  {name}  {number(values[-1]):>9}  {span:<22} ").append(sparkline(values, curve), style="cyan")
    completed = reading.timeline.completed
    if completed is not None:
        best = completed.system
        since = f"best valid {number(best.best_loss)} @{best.best_epoch}" if best.best_loss is not None else f"best valid {UNKNOWN}"
        yield from map(Text, listed((since, f"lr {rate(next(iter(completed.learning_rates), None))}", *_metrics(rows[-1])), width, 2))


def seeds(reading: Reading, width: int) -> Iterator[Text]:
    """The lattice: sites by slots."""
    sites = reading.state.sites
    yield _title(f"lattice after epoch {reading.state.epoch}")
    if not sites:
        yield Text("  this run has no sites: nothing can grow in it")
        return
    slots = max(site.slots for site in sites)
    head = max(len(site.name) for site in sites) + 4
    for line in lattice(sites, reading.state.seeds, max(8, min(24, (width - head) // max(1, slots)))):
        yield Text("  ").append_text(line)
    for site in sites:
        blueprints = ", ".join(site.blueprints)
        words = f"{site.name}: {site.layer}, {site.inputs} in, {site.outputs} out; {blueprints}"
        yield from (Text(line, style="dim") for line in wrapped(words, width, 2))


def lanes(reading: Reading, width: int) -> Iterator[Text]:
    """A lane per life along the epochs."""
    lives = reading.timeline.lives
    if not lives:
        yield _title("lives")
        yield Text("  no seed has germinated yet")
        return
    epoch = reading.state.epoch
    heads = [f"{life.site} {name_of(life)} @{life.life}" for life in lives]
    room = min(38, max(map(len, heads)))
    axis, columns = epoch + 1, max(20, width - room - 16)
    scale = scale_of(axis, columns)
    yield _title("lives" if scale == 1 else f"lives, {scale} epochs a character")
    yield Text(" " * (room + 4) + ruler(axis, columns), style="dim")
    glyphs = ""
    for life, head in zip(lives, heads, strict=True):
        line = Text(f"  {within(head, room).ljust(room)}  ", style=LOOKS[life.stage].style)
        drawn = lane(life, epoch, axis, columns)
        glyphs += drawn.plain
        line.append_text(drawn).append(" " * max(1, 1 + min(columns, axis) - drawn.cell_len))
        yield line.append(_ending(life), style=LOOKS[life.stage].style)
    yield from (Text("  ").append_text(line) for line in legend(glyphs, width - 2))


def _ending(life: Life) -> str:
    return "undone" if life.undone else life.stage.value.lower().replace("_", "-")


def decided(reading: Reading, width: int, everything: bool) -> Iterator[Text]:
    """Decisions with their numbers, refused ones included; housekeeping is counted unless everything is asked for."""
    made = list(reading.timeline.decisions)
    shown = made if everything else decisions.adaptations(made) + _gone_wrong(made)
    shown.sort(key=lambda one: one.moment)
    yield _title("decisions")
    if not made:
        yield Text("  none was made yet")
    for one in shown:
        for line in decisions.block(one, width - 1):
            yield Text(" ").append_text(line)
    hidden = len(made) - len(shown)
    if hidden:
        yield Text(f"  {hidden} of housekeeping or for doing nothing are not shown: --all shows them", style="dim")
    counts = reading.state.control.counts
    yield Text(f"  {sum(counts.made.values())} made; refused by the gate: {decisions.refusals(reading.state)}", style="dim")
    came_out = f"{counts.applied} applied, {counts.commands_refused} refused, {counts.commands_failed} failed"
    yield Text(f"  {counts.issued} commands: {came_out}", style="dim")


def _gone_wrong(made: Sequence[DecisionRow]) -> list[DecisionRow]:
    return [one for one in made if one.decision.adaptation in decisions.HOUSEKEEPING and one.fate not in ("applied", "recorded")]


def reports(reading: Reading, width: int) -> Iterator[Text]:
    """What came back about each blueprint."""
    rows = reading.state.field_reports
    if not rows:
        return
    yield _title("field reports")
    for row in rows:
        event = row.event
        change = f"{number(event.metric_before)} → {number(event.metric_after)}"
        words = f"{event.site} s{event.seed} {event.blueprint} @{event.life}  {event.outcome.lower()}  valid {change}"
        yield from map(Text, hanging(f"  {row.epoch:>4}  ", words, width))


def checkpoints(reading: Reading) -> Iterator[Text]:
    """The checkpoints that are kept."""
    rows = reading.state.checkpoints
    yield _title("checkpoints kept")
    if not rows:
        yield Text("  none")
    for row in rows:
        yield Text(f"  {row.epoch:>4}  {row.name}  {row.digest[:12]}  {decimal(row.size_bytes)}  {row.reason.replace('_', ' ')}")


def notes(reading: Reading, width: int) -> Iterator[Text]:
    """What happened to the run itself."""
    if not reading.timeline.notes:
        return
    yield _title("events of the run")
    for note in reading.timeline.notes:
        yield from map(Text, hanging(f"  {note.epoch:>4}  @{note.moment}  ", note.text, width))


def irregular(reading: Reading, width: int) -> Iterator[Text]:
    """Facts that do not fit what came before them."""
    rows = reading.state.irregularities
    if not rows:
        return
    yield _title("irregular")
    for row in rows:
        yield from (Text(line, style="red") for line in wrapped(f"@{row.moment}  {row.what}", width, 2))


def _title(words: str) -> Text:
    return Text(f"\n{words}", style="bold")


def _metrics(row: EpochRow) -> list[str]:
    if row.validation is None:
        return ["not validated"]
    return [metric(name, value) for name, value in row.validation.metrics.items()] or ["no metrics"]
