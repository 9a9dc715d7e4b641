"""The run's timeline as a drawing: epochs from left to right; losses, lanes of seeds with their stages, and rows of marks below them.

Everything is computed here and drawn by `timeline.svg`. No meaning is carried by colour alone: stages are told apart by height, border and
a letter or word, marks by their row and shape, and each has a title in words. What is denser than a pixel is drawn once and counted.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from esper.audit.report.sentences import ResultRow
from esper.folds.transitions import IN_TASK_GRAPH
from esper.words import number, plural

WIDTH, LEFT, RIGHT = 1000.0, 150.0, 20.0
_LOSS_HEIGHT, _LANE, _GAP, _TOP = 150.0, 20.0, 16.0, 26.0
_MOST_LANES = 40
_LETTER, _PADDING = 6.0, 6.0  # Of the labels' type, so that a word is drawn where it fits.
_CODES = {
    "GERMINATED": "g", "LOADING": "l", "TRAINING": "T", "GRAFTING": "G", "STABILIZATION": "S", "EVALUATING": "E", "FINE_TUNING": "F",
    "FOSSILIZED": "+", "CULLED": "x", "CANCELLED": "c", "ROLLED_BACK": "r",
}  # fmt: skip
_ENDED = ("CULLED", "CANCELLED", "ROLLED_BACK")
MARK_ROWS = (
    ("refused", "refused or failed"),
    ("alert", "alerts"),
    ("correction", "rollback, resume, end"),
    ("dark", "monitoring dark"),
    ("violation", "violations of checks"),
)
_ROW_OF = {"rollback": "correction", "resume": "correction", "end": "correction"}
_TITLES = 6


@dataclass(frozen=True, slots=True)
class PlacedViolation:
    """A violation that a check found, and the epoch of the record that it stands at; None where there is none of that moment."""

    check: str
    moment: int
    epoch: int | None
    what: str


class Bar(NamedTuple):
    """A stage of a seed. `kind` is how it is drawn: `isolated`, `acting`, `fossilized` or `ended`."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    label: str
    title: str


class Mark(NamedTuple):
    """Something that happened. `shape` is how it is drawn; `reach` is where a rollback goes back to."""

    x: float
    y: float
    shape: str
    title: str
    reach: float | None = None


class Label(NamedTuple):
    """A word at a place."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class TimelineDrawing:
    """The drawing. `lines` are the losses by name, as points; `stages` the letters that stand for stages in it."""

    height: float
    floor: float
    description: str
    lines: tuple[tuple[str, str], ...]
    losses: tuple[Label, ...]
    epochs: tuple[Label, ...]
    lanes: tuple[Label, ...]
    bars: tuple[Bar, ...]
    rows: tuple[Label, ...]
    marks: tuple[Mark, ...]
    stages: tuple[tuple[str, str], ...]
    left_out: int


def draw(
    losses: Sequence[ResultRow], spans: Sequence[ResultRow], marks: Sequence[ResultRow], violations: Sequence[PlacedViolation]
) -> TimelineDrawing | None:
    """The drawing of a run; None where no epoch of it is known."""
    epochs = [row["epoch"] for row in (*losses, *marks)] + [row["until"] for row in spans]
    last = max(epochs, default=0)
    if last == 0:
        return None
    places = _Places(last)
    lines, levels = _lines(losses, places)
    top = _TOP + _LOSS_HEIGHT + _GAP
    lanes, bars, left_out = _lanes(spans, places, top)
    below = top + len(lanes) * _LANE + _GAP
    rows, drawn = _marks(marks, violations, places, below)
    used = [stage for stage in _CODES if any(row["stage"] == stage for row in spans)]
    return TimelineDrawing(
        height=below + len(MARK_ROWS) * (_LANE + 4) + 24,
        floor=below + len(MARK_ROWS) * (_LANE + 4),
        description=_description(last, losses, spans, marks, violations),
        lines=lines,
        losses=levels,
        epochs=tuple(Label(places.x(epoch), 0, f"{epoch:,}") for epoch in _ticks(last)),
        lanes=lanes,
        bars=bars,
        rows=rows,
        marks=drawn,
        stages=tuple((_CODES[stage], stage) for stage in used),
        left_out=left_out,
    )


class _Places(NamedTuple):
    """The scale of the epochs: the last one at the right."""

    last: int

    def x(self, epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * epoch / self.last, 1)


def _ticks(last: int) -> list[int]:
    """Round numbers from 0 to `last`, eleven at most."""
    step = next(step for power in range(12) for step in (10**power, 2 * 10**power, 5 * 10**power) if last / step <= 10)
    return list(range(0, last + 1, step))


def _lines(losses: Sequence[ResultRow], places: _Places) -> tuple[tuple[tuple[str, str], ...], tuple[Label, ...]]:
    """The losses as points, and what their axis says. Logarithmic where all are above 0; a value that is not finite breaks the line."""
    names = ("train_loss", "validation_loss")
    finite = [row[name] for row in losses for name in names if row[name] is not None and math.isfinite(row[name])]
    if not finite:
        return (), ()
    scale = math.log if min(finite) > 0 else float
    low, high = scale(min(finite)), scale(max(finite))

    def y(value: float) -> float:
        return round(_TOP + _LOSS_HEIGHT * (1 - (scale(value) - low) / (high - low or 1)), 1)

    lines = []
    for name in names:
        pieces: list[list[str]] = [[]]
        for row in losses:
            value = row[name]
            if value is None or not math.isfinite(value):
                pieces.append([])
            else:
                pieces[-1].append(f"{places.x(row['epoch'])},{y(value)}")
        lines += [(name, " ".join(piece)) for piece in pieces if piece]
    middle = math.exp((low + high) / 2) if scale is math.log else (low + high) / 2
    levels = dict.fromkeys((min(finite), middle, max(finite)))
    return tuple(lines), tuple(Label(LEFT - 6, y(value), f"{value:.3g}") for value in levels)


def _lanes(spans: Sequence[ResultRow], places: _Places, top: float) -> tuple[tuple[Label, ...], tuple[Bar, ...], int]:
    slots = list(dict.fromkeys((row["site"], row["seed"]) for row in spans))
    shown = {slot: top + at * _LANE for at, slot in enumerate(slots[:_MOST_LANES])}
    labels = tuple(Label(LEFT - 6, y + _LANE / 2, _short(f"site {site} slot {seed}")) for (site, seed), y in shown.items())
    widest: dict[tuple[float, int], Bar] = {}
    for row in spans:
        y = shown.get((row["site"], row["seed"]))
        # A stage that began and ended at one epoch's end is no bar; one that something ended in is, for its mark.
        if y is None or not (row["until"] > row["since"] or row["stage"] in _ENDED or row["until"] == places.last):
            continue
        bar = _bar(row, places, y)
        known = widest.setdefault((y, round(bar.x)), bar)
        if bar.width > known.width:
            widest[y, round(bar.x)] = bar
    return labels, tuple(widest.values()), len(slots) - len(shown)


def _bar(row: ResultRow, places: _Places, y: float) -> Bar:
    stage, left = row["stage"], places.x(row["since"])
    width = max(places.x(row["until"]) - left, 3.0)
    acting = stage in IN_TASK_GRAPH
    kind = "fossilized" if stage == "FOSSILIZED" else "acting" if acting else "ended" if stage in _ENDED else "isolated"
    height = _LANE - 3 if acting else _LANE - 7
    word = stage.replace("_", " ").lower()
    label = word if len(word) * _LETTER + _PADDING <= width else _CODES[stage] if width >= _PADDING + 2 or stage in _ENDED else ""
    title = f"{row['blueprint'] or 'seed'}, {word} from the end of epoch {row['since']} to that of {row['until']}"
    return Bar(left, y + (_LANE - height) / 2, round(width, 1), height, kind, label, title)


def _marks(
    marks: Sequence[ResultRow], violations: Sequence[PlacedViolation], places: _Places, top: float
) -> tuple[tuple[Label, ...], tuple[Mark, ...]]:
    """The rows of marks, and one mark for all that has the same shape at the same place."""
    heights = {row: top + at * (_LANE + 4) + _LANE / 2 for at, (row, _) in enumerate(MARK_ROWS)}
    told: list[tuple[str, int, int | None, str]] = [(row["kind"], row["epoch"], row["until"], row["what"]) for row in marks]
    told += [("violation", one.epoch, None, f"{one.check}: {one.what}") for one in violations if one.epoch is not None]
    found: dict[tuple[str, int], tuple[Mark, list[str]]] = {}
    for kind, epoch, until, what in told:
        x, reach = places.x(epoch), None if until is None else places.x(until)
        mark = Mark(x, heights[_ROW_OF.get(kind, kind)], kind, "", reach)
        found.setdefault((kind, round(x)), (mark, []))[1].append(f"epoch {epoch}: {what}")
    drawn = tuple(mark._replace(title=_title(titles)) for mark, titles in found.values())
    return tuple(Label(LEFT - 6, heights[row], words) for row, words in MARK_ROWS), drawn


def _title(titles: Sequence[str]) -> str:
    more = [f"and {len(titles) - _TITLES} more"] if len(titles) > _TITLES else []
    return "\n".join((*titles[:_TITLES], *more))


def _short(text: str, most: int = 24) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def _description(
    last: int, losses: Sequence[ResultRow], spans: Iterable[ResultRow], marks: Iterable[ResultRow], violations: Sequence[PlacedViolation]
) -> str:
    """The drawing in words, for whoever cannot see it."""
    slots = {(row["site"], row["seed"]) for row in spans}
    kinds = [row["kind"] for row in marks]
    known = [row["validation_loss"] for row in losses if row["validation_loss"] is not None]
    loss = f"the validation loss goes from {number(known[0])} to {number(known[-1])}" if known else "no validation loss is known"
    counts = (
        plural(kinds.count("refused"), "refusal or failure", "refusals or failures"),
        plural(kinds.count("alert"), "alert"),
        plural(kinds.count("rollback"), "rollback"),
        plural(kinds.count("resume"), "resume"),
        plural(kinds.count("dark"), "gap of monitoring", "gaps of monitoring"),
        plural(len(violations), "violation of a check", "violations of checks"),
    )
    told = f"{last:,} epochs: {loss}; seeds lived in {plural(len(slots), 'slot')}; {', '.join(counts)}"
    return f"{told}. The sections below have each in a table."
