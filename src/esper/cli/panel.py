"""The panel of a run, with the lanes of its seeds in words.

It is drawn from a FoldedRun and nothing else, so a replay draws what the live display drew.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from esper.cli.decisions_and_refusals import decision_table, is_adaptation, words_of_decisions
from esper.cli.text import (
    UNKNOWN,
    elided,
    hanging,
    learning_rate,
    metric,
    one_line,
    percent,
    rounded,
    short_id,
    span,
    sparkline,
    whole_words,
)
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import RunStarted, Site
from esper.folds.run_state import RunState
from esper.folds.timeline import Life, Span
from esper.folds.transitions import IN_TASK_GRAPH
from esper.history.run_history import FoldedRun
from esper.words import plural


class _Look(NamedTuple):
    """Style, word and glyph of a stage. A denser glyph is more influence on the host: none up to TRAINING, whole from STABILIZATION on."""

    style: str
    word: str
    glyph: str


LOOKS: Mapping[Stage, _Look] = {
    Stage.DORMANT: _Look("dim", "dormant", " "),
    Stage.GERMINATED: _Look("yellow", "germ", "·"),
    Stage.LOADING: _Look("yellow", "load", ":"),
    Stage.TRAINING: _Look("cyan", "train", "░"),
    Stage.GRAFTING: _Look("magenta", "graft", "▒"),
    Stage.STABILIZATION: _Look("blue", "stab", "▓"),
    Stage.EVALUATING: _Look("blue", "eval", "?"),
    Stage.FINE_TUNING: _Look("green", "fine-tune", "█"),
    Stage.FOSSILIZED: _Look("bold green", "fossil", "━"),
    Stage.CULLED: _Look("red", "culled", "x"),
    Stage.CANCELLED: _Look("dim", "cancelled", "o"),
    Stage.ROLLED_BACK: _Look("bold red", "rolled back", "!"),
}
OVER = frozenset({Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK})
_SITES = 6
_DECISIONS = 6
_LANE_NAME = 16
_LONGEST_BAR = 4
_PLANNED = {
    Stage.TRAINING: "policy.train_epochs",
    Stage.GRAFTING: "policy.graft_epochs",
    Stage.STABILIZATION: "policy.stabilize_epochs",
    Stage.EVALUATING: "policy.evaluate_epochs",
    Stage.FINE_TUNING: "policy.fine_tune_epochs",
}


def panel(folded: FoldedRun, width: int) -> Group:
    """The panel of `folded` in `width` columns."""
    started = folded.state.started
    if started is None:
        return Group(Text(f" esper · run {short_id(folded.run)} · nothing recorded yet", style="dim"))
    return Group(
        _header(folded, started),
        _losses(folded),
        _log(folded),
        *(hanging("       ", note.text, style="yellow") for note in folded.timeline.notes[-2:]),
        *_sites(folded, started, width),
        *_latest_decisions(folded, width),
    )


def _latest_decisions(folded: FoldedRun, width: int) -> Iterator[RenderableType]:
    latest = list(islice(filter(is_adaptation, folded.timeline.latest()), _DECISIONS))
    if latest:
        yield decision_table(latest, width)
        yield words_of_decisions()


def _ends(left: RenderableType, *right: RenderableType) -> Table:
    """A line with `left` at its left end, which is one line, and `right` at its right end."""
    columns = (Column(no_wrap=True, justify="right") for _ in right)
    grid = Table.grid(Column(ratio=1, no_wrap=True, overflow="ellipsis"), *columns, padding=(0, 0, 0, 1), expand=True)
    grid.add_row(left, *right)
    return grid


def _header(folded: FoldedRun, started: RunStarted) -> Table:
    state, telemetry = folded.state, folded.telemetry
    style = "green" if state.status.value == "finished" else "red"
    status = [Text(state.status.value, style=style)] if state.status.value in ("finished", "failed") else []
    left = one_line(
        f" esper · {started.task}", f"run {short_id(folded.run)}", *status, f"rng {started.rng_seed}", between=" · ", style="bold"
    )
    done = state.epochs[-1].epoch if state.epochs else 0
    speed = "" if telemetry.step_ms is None else f"{rounded(telemetry.step_ms, 1)} ms/step"
    if started.epochs is None:
        return _ends(left, f"epoch {done}", speed)
    return _ends(left, f"epoch {done}/{started.epochs}", ProgressBar(started.epochs, done, width=18), speed)


def _losses(folded: FoldedRun) -> Group:
    """The losses with the curve of the validation loss and its range, and below what else was measured."""
    state, telemetry, completed = folded.state, folded.telemetry, folded.timeline.completed
    last = state.epochs[-1] if state.epochs else None
    validation = [None if row.validation is None else row.validation.loss for row in state.epochs]
    best = None if completed is None else completed.system
    rate = telemetry.learning_rate if completed is None else next(iter(completed.learning_rates), None)
    losses = one_line(
        f" loss  train {rounded(last.train.loss if last else None)}",
        f"valid {rounded(validation[-1] if validation else None)}",
        *([] if best is None or best.best_loss is None else [f"best {rounded(best.best_loss)} @{best.best_epoch}"]),
        *([Text(sparkline(validation[-60:], 10), style="cyan").append(f" {span(validation[-60:])}", style="dim")] if validation else []),
    )
    measured = [
        *first_metrics({} if last is None or last.validation is None else last.validation.metrics),
        *([] if rate is None else [f"lr {learning_rate(rate)}"]),
        *([] if telemetry.data_wait is None else [f"data wait {percent(telemetry.data_wait, 0)}"]),
    ]
    return Group(losses, one_line(f"       {measured[0]}", *measured[1:])) if measured else Group(losses)


def first_metrics(metrics: Mapping[str, float]) -> list[str]:
    """The first two metrics with their names, where room is short."""
    return [metric(name, value).replace("accuracy", "acc") for name, value in islice(metrics.items(), 2)]


def _log(folded: FoldedRun) -> Table:
    state, telemetry = folded.state, folded.telemetry
    lost = sum(state.dropped.values())
    parts = [Text(f" log   {plural(telemetry.records, 'record')} on disk"), Text(f"{lost} lost", style="red" if lost else "")]
    if state.rollbacks:
        parts.append(Text(f"{len(state.rollbacks)} rolled back", style="red"))
    if telemetry.doing is not None and state.end is None:
        parts.append(Text(telemetry.doing, style="dim"))
    kept = f"{state.checkpoints[-1].name} · {state.checkpoints[-1].digest[:8]}" if state.checkpoints else "none yet"
    return _ends(one_line(*parts, between=" · "), Text(f"checkpoint {kept}", style="dim"))


def _sites(folded: FoldedRun, started: RunStarted, width: int) -> Iterator[RenderableType]:
    """A box per site that has or had seeds; the others are counted."""
    latest: dict[str, dict[int, Life]] = {}
    for life in folded.timeline.lives:
        latest.setdefault(life.site, {})[life.seed] = life
    sites = folded.state.sites
    grown = [site for site in sites if site.name in latest]
    # A stage's planned length, where the run's settings name it.
    planned = {stage: epochs for stage, key in _PLANNED.items() if isinstance(epochs := started.settings.get(key), int)}
    for site in grown[:_SITES]:
        yield _box(folded, site, latest[site.name], planned, width)
    if len(grown) > _SITES:
        yield Text(f" {len(grown) - _SITES} more sites with seeds: esper show {folded.run[-6:]}", style="dim")
    dormant = [site.name for site in sites if site.name not in latest]
    if dormant:
        yield one_line(f" {len(dormant)} dormant: {', '.join(dormant)}", style="dim")


def _box(folded: FoldedRun, site: Site, lives: Mapping[int, Life], planned: Mapping[Stage, int], width: int) -> Panel:
    """A lane per slot that was used, between the site's layer and its pressure to grow."""
    name = Column(width=_LANE_NAME, no_wrap=True, overflow="ellipsis")
    grid = Table.grid(name, Column(ratio=1, no_wrap=True), Column(no_wrap=True, justify="right"), padding=(0, 1, 0, 0), expand=True)
    for seed, life in sorted(lives.items()):
        alpha = _alpha(folded.state, life)
        stages = stages_in_words(life, folded.state.epoch, planned, width - _LANE_NAME - 7 - len(alpha))
        grid.add_row(Text(f"s{seed} {life.blueprint or UNKNOWN}", style=LOOKS[life.stage].style), stages, alpha)
    return Panel(
        grid,
        box=box.SQUARE,
        border_style="dim",
        title=f"site {elided(f'{site.name} · {site.layer}', width // 2)}",
        title_align="left",
        subtitle=_pressure(folded, site),
        subtitle_align="right",
    )


def _alpha(state: RunState, life: Life) -> str:
    slot = state.slot(life.site, life.seed)
    if slot is None or slot.row.life != life.life or slot.row.stage not in IN_TASK_GRAPH or slot.row.alpha is None:
        return ""
    return f"alpha {rounded(slot.row.alpha, 2)}"


def _pressure(folded: FoldedRun, site: Site) -> str:
    """Gradient pressure and effective rank of `site` at the last epoch's end."""
    completed = folded.timeline.completed
    row = None if completed is None else next((row for row in completed.system.sites if row.site == site.name), None)
    if row is None:
        return "not measured yet"
    rank = f"rank {rounded(row.effective_rank, 1)} of {site.outputs}" if row.effective_rank is not None else f"rank {UNKNOWN}"
    return f"|grad| {rounded(row.gradient_pressure, 2)} · {rank}"


def stages_in_words(life: Life, epoch: int, planned: Mapping[Stage, int], width: int) -> Text:
    """The stages of `life` up to the end of `epoch`, in at most `width` characters: the past with a bar per epoch, the present in capitals.

    `planned` is the length in epochs that the settings give a stage. Stages that took no epoch are left out; where room is short the
    oldest give way to an ellipsis.
    """
    past = [_past(stay, epoch) for stay in life.spans[:-1] if _length(stay, epoch) > 0]
    now = _now(life, epoch, planned)
    # A long reason gives way to the past down to a third of the room, then the past gives way from its front.
    now.plain = whole_words(now.plain, max(width - sum(part.cell_len for part in past), width // 3))
    while past and sum(part.cell_len for part in past) + now.cell_len > width:
        past = [Text("… ", style="dim"), *past[2:]] if len(past) > 1 else []
    return Text().join((*past, now))


def _past(stay: Span, epoch: int) -> Text:
    length = _length(stay, epoch)
    bar = "" if stay.stage in OVER else f"{'━' * length if length <= _LONGEST_BAR else f'━{length}━'} "
    return Text(f"{LOOKS[stay.stage].word} {bar}", style=LOOKS[stay.stage].style)


def _now(life: Life, epoch: int, planned: Mapping[Stage, int]) -> Text:
    last = life.spans[-1]
    style, word, _ = LOOKS[last.stage]
    if life.undone:
        return Text(f"{word}, undone by a rollback", style="red")
    if last.stage in OVER:
        return Text(f"{word} @{last.from_epoch}: {last.reason}", style=style)
    if last.stage is Stage.FOSSILIZED:
        return Text(f"FOSSIL since @{last.from_epoch}", style=style)
    of = f"/{planned[last.stage]}" if last.stage in planned else ""
    return Text(f"{word.upper()} {_length(last, epoch)}{of}", style=style)


def _length(stay: Span, epoch: int) -> int:
    return (stay.to_epoch if stay.to_epoch is not None else epoch) - stay.from_epoch
