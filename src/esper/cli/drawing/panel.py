"""The live panel of a run: header, losses, log, one box per site with the lanes of its seeds, the last decisions with their numbers.

It draws a Reading and nothing else, so what it shows while a run trains is what a replay shows of it later.
"""

from collections.abc import Mapping
from itertools import islice

from rich.console import Group
from rich.text import Text

from esper.cli.drawing import decisions
from esper.cli.drawing.lanes import LOOKS, stages_in_words
from esper.cli.drawing.text import UNKNOWN, bar, clipped, first_metrics, fitted, many, number, percent, rate, short, sparkline
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import RunStarted, Site
from esper.folds.lifecycle import IN_TASK_GRAPH
from esper.folds.run import RunState
from esper.folds.timeline import Life
from esper.history.view import Reading

_SITES = 6
_DECISIONS = 6
_PLANNED = {
    Stage.TRAINING: "policy.train_epochs",
    Stage.GRAFTING: "policy.graft_epochs",
    Stage.STABILIZATION: "policy.stabilize_epochs",
    Stage.EVALUATING: "policy.evaluate_epochs",
    Stage.FINE_TUNING: "policy.fine_tune_epochs",
}


def panel(reading: Reading, width: int) -> Group:
    """The panel of `reading` in `width` columns."""
    state = reading.state
    if state.started is None:
        return Group(Text(f" esper · run {short(reading.run)} · nothing recorded yet", style="dim"))
    lines = [_header(reading, width), losses(reading, width), log(reading, width)]
    lines += [Text(clipped(f"     {note.text}", width), style="yellow") for note in reading.timeline.notes[-2:]]
    lines += _boxes(reading, width)
    last = islice((one for one in reading.timeline.latest() if one.decision.adaptation not in decisions.HOUSEKEEPING), _DECISIONS)
    room = decisions.room_for(state.sites)
    lines += [decisions.line(decided, width, room) for decided in last]
    return Group(*lines)


def _header(reading: Reading, width: int) -> Text:
    """Task, run, rng seed; how far it has got; how fast."""
    state, pulse = reading.state, reading.pulse
    assert state.started is not None
    left = Text(f" esper · {state.started.task} · run {short(reading.run)} · rng {state.started.rng_seed}", style="bold")
    if state.status.value in ("finished", "failed"):
        left.append(f" · {state.status.value}", style="green" if state.status.value == "finished" else "red")
    planned = state.started.epochs
    done = max((row.epoch for row in state.epochs[-1:]), default=0)
    speed = "" if pulse.step_ms is None else f"  {number(pulse.step_ms, 1)} ms/step"
    of = "" if planned is None else f"/{planned} {bar(done, planned, 18)}"
    return _spread(left, Text(f"epoch {done}{of}{speed}"), width)


def losses(reading: Reading, width: int) -> Text:
    """Losses, the best, the curve of validation, metrics, learning rate, and how long steps wait for data; what has no room is left out."""
    state, pulse, completed = reading.state, reading.pulse, reading.timeline.completed
    last = state.epochs[-1] if state.epochs else None
    validation = [None if row.validation is None else row.validation.loss for row in state.epochs]
    parts = [f" loss  train {number(last.train.loss if last else None)}", f"valid {number(validation[-1] if validation else None)}"]
    if completed is not None and completed.system.best_loss is not None:
        parts.append(f"best {number(completed.system.best_loss)} @{completed.system.best_epoch}")
    curve = sparkline(validation[-60:], 10)
    metrics = {} if last is None or last.validation is None else last.validation.metrics
    parts += [curve, *first_metrics(metrics)]
    lr = pulse.learning_rate if completed is None else next(iter(completed.learning_rates), None)
    parts += [] if lr is None else [f"lr {rate(lr)}"]
    parts += [] if pulse.data_wait is None else [f"data wait {percent(pulse.data_wait, 0)}"]
    line = Text(fitted(parts, width))
    line.highlight_words([curve] if curve else [], style="cyan")
    return line


def log(reading: Reading, width: int) -> Text:
    """What the log holds, what was lost before it got there, and the last checkpoint."""
    state, pulse = reading.state, reading.pulse
    lost = sum(state.dropped.values())
    left = Text(f" log   {many(pulse.records, 'record')} on disk · ").append(f"{lost} lost", style="red" if lost else "")
    if pulse.doing is not None and state.end is None:
        left.append(f" · {pulse.doing}", style="dim")
    if state.rollbacks:
        left.append(f" · {len(state.rollbacks)} rolled back", style="red")
    kept = state.checkpoints[-1] if state.checkpoints else None
    right = "checkpoint none yet" if kept is None else f"checkpoint {kept.name} · {kept.digest[:8]}"
    return _spread(left, Text(right, style="dim"), width)


def _boxes(reading: Reading, width: int) -> list[Text]:
    """A box per site that has or had seeds; the others are counted."""
    latest: dict[str, dict[int, Life]] = {}
    for life in reading.timeline.lives:
        latest.setdefault(life.site, {})[life.seed] = life
    sites = reading.state.sites
    grown = [site for site in sites if site.name in latest]
    lines: list[Text] = []
    for site in grown[:_SITES]:
        lines += _box(reading, site, latest[site.name], width)
    hidden, dormant = len(grown) - _SITES, len(sites) - len(grown)
    if hidden > 0:
        lines.append(Text(f" {hidden} more sites with seeds: esper show {reading.run[-6:]}", style="dim"))
    if dormant:
        names = ", ".join(site.name for site in sites if site.name not in latest)
        lines.append(Text(clipped(f" {dormant} dormant: {names}", width), style="dim"))
    return lines


def _box(reading: Reading, site: Site, lives: Mapping[int, Life], width: int) -> list[Text]:
    """One site: what it is, where growth presses, and a lane per slot that was used."""
    title = f" {clipped(f'site {site.name} · {site.layer}', width // 2)} "
    pressure = f" {_pressure_of(reading, site)} "
    fill = max(1, width - len(title) - len(pressure) - 4)
    lines = [Text(f" ┌{title}{'─' * fill}{pressure}┐", style="dim")]
    planned = _planned_epochs(reading.state.started)
    lines += [_lane(reading.state, lives[seed], planned, width) for seed in sorted(lives)]
    lines.append(Text(f" └{'─' * (width - 4)}┘"[:width], style="dim"))
    return lines


def _lane(state: RunState, life: Life, planned: Mapping[Stage, int], width: int) -> Text:
    name = f"s{life.seed} {clipped(life.blueprint or UNKNOWN, 12)}"
    slot = state.slot(life.site, life.seed)
    blended = slot is not None and slot.row.life == life.life and slot.row.stage in IN_TASK_GRAPH
    alpha = slot.row.alpha if slot is not None and blended else None
    end = f"alpha {number(alpha, 2)}" if alpha is not None else ""
    room = width - 6 - 16 - len(end) - 1
    stages = stages_in_words(life, state.epoch, planned, room)
    text = Text().append(" │ ", style="dim").append(name.ljust(16), style=LOOKS[life.stage].style)
    text.append_text(stages).append(" " * (room - stages.cell_len + 1)).append(end)
    return text.append(" │", style="dim")


def _pressure_of(reading: Reading, site: Site) -> str:
    """The site's gradient pressure and effective rank as of the last epoch's end; unknown where they were not measured."""
    completed = reading.timeline.completed
    row = None if completed is None else next((row for row in completed.system.sites if row.site == site.name), None)
    if row is None:
        return "not measured yet"
    rank = f"rank {number(row.effective_rank, 1)} of {site.outputs}" if row.effective_rank is not None else f"rank {UNKNOWN}"
    return f"|grad| {number(row.gradient_pressure, 2)} · {rank}"


def _planned_epochs(started: RunStarted | None) -> dict[Stage, int]:
    """How many epochs the run's settings plan for each stage; a stage they do not name is absent."""
    settings = {} if started is None else started.settings
    return {stage: value for stage, key in _PLANNED.items() if isinstance(value := settings.get(key), int)}


def _spread(left: Text, right: Text, width: int) -> Text:
    gap = max(2, width - left.cell_len - right.cell_len)
    text = Text().append_text(left).append(" " * gap).append_text(right)
    text.truncate(width)
    return text
