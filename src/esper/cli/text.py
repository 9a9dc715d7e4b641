"""Numbers, names, small curves and lists as text. A value that was not measured is shown as unknown, never as zero."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from esper.events.envelope import EventId, RunId
from esper.words import not_finite

UNKNOWN = "unknown"
_BLOCKS = "▁▂▃▄▅▆▇█"


def rounded(value: float | None, decimals: int = 3) -> str:
    """`value` with `decimals` places, in scientific form where that would show only zeros; NaN and infinities by name."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return not_finite(value)
    if value != 0 and abs(value) < 10.0**-decimals:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.{decimals}f}"


def learning_rate(value: float | None) -> str:
    """A learning rate, always in scientific form."""
    return UNKNOWN if value is None else f"{value:.1e}".replace("e-0", "e-").replace("e+00", "")


def share(value: float | None) -> str:
    """A confidence or an urgency: three places, so that a value just above a limit does not look equal to it."""
    return UNKNOWN if value is None else f"{value:.3f}" if math.isfinite(value) else rounded(value)


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction as a percentage."""
    return UNKNOWN if fraction is None else f"{rounded(fraction * 100, decimals)} %"


def count(value: int | None) -> str:
    """A count with thousands marked."""
    return UNKNOWN if value is None else f"{value:,}"


def metric(name: str, value: float | None) -> str:
    """A metric with its name; an accuracy as a percentage."""
    return f"{name} {percent(value) if name.endswith('accuracy') else rounded(value)}"


def timestamp(time: datetime | None) -> str:
    """A time of the log, UTC, to the second."""
    return UNKNOWN if time is None else time.strftime("%Y-%m-%d %H:%M:%S")


def short_id(run: RunId) -> str:
    """The end of a run's id, which is what people see and type."""
    return f"…{run[-6:]}"


def reference(event_id: EventId) -> str:
    """The record named by `event_id`: `@moment` for a run's own record, else the start of a derived id."""
    run, slash, moment = event_id.rpartition("/")
    return f"@{moment}" if slash and "/" not in run else event_id[:8]


def elided(text: str, width: int) -> str:
    """`text` in at most `width` characters, an ellipsis in its middle where it was cut."""
    end = max(0, (width - 1) // 2)
    return text if len(text) <= width else f"{text[: max(0, width - 1 - end)]}…{text[len(text) - end :]}"


def whole_words(text: str, width: int) -> str:
    """`text` in at most `width` characters: as many whole words as there is room for, and an ellipsis for the others."""
    if len(text) <= width:
        return text
    kept = ""
    for word in text.split(" "):
        longer = f"{kept} {word}" if kept else word
        if len(longer) + 2 > width:
            break
        kept = longer
    return f"{kept} …" if kept else elided(text, width)


def at_joints(text: str, width: int) -> str:
    """`text` with line breaks in words of more than `width` characters: behind one of `.,:;/_-` where there is one, else anywhere."""
    piece = rf".{{1,{width}}}$|.{{1,{width}}}(?<=[.,:;/_-])|.{{{width}}}"
    return re.sub(rf"\S{{{width + 1},}}", lambda word: "\n".join(re.findall(piece, word[0])), text)


class _OneLine:
    """As many parts as one line holds whole; an ellipsis stands for those behind it."""

    def __init__(self, parts: Iterable[str | Text], between: str, style: str) -> None:
        self._parts = [part if isinstance(part, Text) else Text(part) for part in parts]
        self._between, self._style = between, style

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        kept = len(self._parts)
        while kept > 1 and self._width(kept) > options.max_width:
            kept -= 1
        parts = self._parts[:kept] + ([Text("…")] if kept < len(self._parts) else [])
        text = Text(self._between).join(parts)
        text.style, text.no_wrap, text.overflow = self._style, True, "ellipsis"
        yield text

    def _width(self, kept: int) -> int:
        lengths = [part.cell_len for part in self._parts[:kept]] + ([1] if kept < len(self._parts) else [])
        return sum(lengths) + len(self._between) * (len(lengths) - 1)


def one_line(*parts: str | Text, between: str = "  ", style: str = "") -> _OneLine:
    """`parts` in one line; where there is no room for all, those at its end are left out, whole, for an ellipsis."""
    return _OneLine(parts, between, style)


class _Separated:
    """Parts with dots between them, as many to a line as it holds. (Rich's Columns would align them, and leave holes.)"""

    def __init__(self, parts: Iterable[str]) -> None:
        *most, last = parts
        self._parts = [*(f"{part} ·" for part in most), last]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        line = ""
        for part in self._parts:
            if line and cell_len(f"{line} {part}") > options.max_width:
                yield Text(line)
                line = ""
            line = f"{line} {part}" if line else part
        yield Text(line)


def separated(parts: Iterable[str], *, indent: int = 0, style: str = "") -> Padding:
    """`parts` with dots between them; where they take several lines, no part is broken."""
    return Padding(_Separated(parts), (0, 0, 0, indent), style=style)


def hanging(head: str | Text, words: str, *, style: str = "") -> Table:
    """`words` beside `head`, wrapped within their column."""
    grid = Table.grid(padding=0)
    grid.add_column(no_wrap=True)
    grid.add_column()
    grid.add_row(head, words, style=style)
    return grid


def span(values: Sequence[float | None]) -> str:
    """The least and the greatest of `values`, which a curve runs between."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return f"{rounded(min(finite))} .. {rounded(max(finite))}" if finite else UNKNOWN


def sparkline(values: Sequence[float | None], width: int) -> str:
    """`values` as a curve of at most `width` blocks between least and greatest; a space is unknown, "!" not finite.

    Where all are above 0, as losses are, the scale is logarithmic: a late improvement shows beside an early one. Where there are more
    values than blocks, a block is the mean of its share, and "!" if any of its share is not finite.
    """
    size = min(width, len(values))
    shares = (values[i * len(values) // size : (i + 1) * len(values) // size] for i in range(size))
    known = ([value for value in share if value is not None] for share in shares)
    means = [sum(share) / len(share) if share else None for share in known]
    finite = [mean for mean in means if mean is not None and math.isfinite(mean)]
    scale = math.log if all(mean > 0 for mean in finite) else float
    low = scale(min(finite, default=1.0))
    span = scale(max(finite, default=1.0)) - low

    def block(mean: float | None) -> str:
        if mean is None:
            return " "
        if not math.isfinite(mean):
            return "!"
        return _BLOCKS[min(len(_BLOCKS) - 1, int((scale(mean) - low) / span * len(_BLOCKS)))] if span > 0 else _BLOCKS[0]

    return "".join(map(block, means))
