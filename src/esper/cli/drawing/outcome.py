"""What a training came to: its metrics, beside the host alone and the static nets where they were trained too."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from esper.cli.drawing.text import count, number
from esper.history.resume import Variant

if TYPE_CHECKING:
    from esper.demo.comparison import Compared  # Needs torch, which the shell imports for training alone.

_BLOCKS = " ▏▎▍▌▋▊▉█"
_NAMES: dict[Variant, tuple[str, str]] = {
    "grown": ("grown", ""),
    "host": ("host alone", ""),
    "static_same": ("same static", "has to be known beforehand"),
    "static_wider": ("wider static", "has to be known beforehand"),
}


def comparison(rows: "Sequence[Compared]", width: int) -> list[Text]:
    """A bar per variant, from 0 to 100 %, the best first."""
    alone = next((row.accuracy for row in rows if row.variant == "host"), None)
    # What a row has besides bar and remark takes 47 characters.
    room = max(5, min(20, width - 47 - max(len(remark) for _, remark in _NAMES.values())))
    lines = []
    for row in sorted(rows, key=lambda row: -row.accuracy):
        name, remark = _NAMES[row.variant]
        if row.variant == "grown" and alone is not None:
            gain = (row.accuracy - alone) * 100
            remark = f"{number(abs(gain), 1)} points {'over' if gain >= 0 else 'under'} the host"
        line = Text(f" {name:<14} {number(row.accuracy * 100, 1):>5} %  ", style="bold" if row.variant == "grown" else "")
        line.append(bar(row.accuracy, room), style="green" if row.variant == "grown" else "cyan")
        line.append(f"  {count(row.parameters):>7} parameters  {remark}")
        line.truncate(width)
        line.rstrip()
        lines.append(line)
    return lines


def title(variant: Variant) -> str:
    """The name of `variant` for people."""
    return _NAMES[variant][0]


def bar(fraction: float, width: int) -> str:
    """A bar of `width` characters for 1, in eighths of a character; empty for what is not a fraction."""
    # Written so that NaN draws nothing: every comparison with it is false.
    if not 0 <= fraction <= 1:
        return " " * width
    eighths = round(fraction * width * 8)
    return ("█" * (eighths // 8) + _BLOCKS[eighths % 8]).strip().ljust(width)
