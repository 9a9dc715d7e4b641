"""The outcome of a training: its metrics beside those of the variants trained for comparison, and what grew, from the run's log."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from esper.cli.decisions import is_adaptation, refusals
from esper.cli.text import count, number, one_line, plural
from esper.events.kinds.control import Adaptation
from esper.events.kinds.run import RunRolledBack
from esper.folds.control_state import DecisionRow
from esper.history.resume import Variant
from esper.history.view import Reading

if TYPE_CHECKING:
    from esper.demo.comparison import Compared  # Needs torch, which the shell imports for training alone.

TITLES: Mapping[Variant, str] = {
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


def comparison(rows: "Sequence[Compared]") -> Table:
    """A row per variant with a bar from 0 to 100 %, the best first."""
    alone = next((row.accuracy for row in rows if row.variant == "host"), None)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(width=_BAR)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True)
    for row in sorted(rows, key=lambda row: -row.accuracy):
        grown = row.variant == "grown"
        remark = "has to be known beforehand" if row.variant.startswith("static") else ""
        if grown and alone is not None:
            gain = (row.accuracy - alone) * 100
            remark = f"{number(abs(gain), 1)} points {'over' if gain >= 0 else 'under'} the host"
        table.add_row(
            f" {TITLES[row.variant]}",
            f"{number(row.accuracy * 100, 1)} %",
            _bar(row.accuracy, "green" if grown else "cyan"),
            f"{count(row.parameters)} parameters",
            remark,
            style="bold" if grown else "",
        )
    return table


def _bar(fraction: float, color: str) -> Bar:
    # Written so that NaN draws nothing: every comparison with it is false.
    return Bar(size=1, begin=0, end=fraction if 0 <= fraction <= 1 else 0, color=color)


def growth_summary(reading: Reading) -> Iterator[RenderableType]:
    """The last dozen changes of the network, a line for all that were alike after one epoch, then the gate's refusals."""
    alike: dict[tuple[int, Adaptation], list[DecisionRow]] = {}
    for one in filter(is_adaptation, reading.timeline.decisions):
        if one.fate == "applied":
            alike.setdefault((one.epoch, one.decision.adaptation), []).append(one)
    turns = [(group[0].moment, f"{epoch:>5}  {_changes(group)}") for (epoch, _), group in alike.items()]
    turns += [(note.moment, f"{note.epoch:>5}  {note.text}") for note in reading.timeline.notes if note.kind == RunRolledBack.KIND]
    if len(turns) > _TURNS:
        yield Text(f"{'':>7}{plural(len(turns) - _TURNS, 'earlier turn')} are not told here", style="dim")
    yield from (one_line(words) for _, words in sorted(turns)[-_TURNS:])
    if not turns:
        yield Text(f"{'':>7}nothing grew")
    yield Text(f"{'':>7}refused by the gate: {refusals(reading.state)}")


def _changes(group: Sequence[DecisionRow]) -> str:
    first, names, site = group[0].decision, [], None
    for decision in (one.decision for one in group):
        where = "" if decision.site == site else f"{decision.site} "
        names.append(f"{where}s{decision.seed} {decision.blueprint or ''}".rstrip())
        site = decision.site
    return f"{_DONE[first.adaptation]} {', '.join(names)}: {first.reason}"
