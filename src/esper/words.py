"""Counts, durations, numbers, times and lists in words. What was not recorded is said as unknown, never left out."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

NOTHING = "—"


def plural(amount: int, noun: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{amount:,} {noun if amount == 1 else many or f'{noun}s'}"


def listed(parts: Sequence[str]) -> str:
    """The parts with commas, and `and` before the last."""
    return " ".join(filter(None, (", ".join(parts[:-1]), "and" if len(parts) > 1 else "", *parts[-1:])))


def counted(names: Iterable[str]) -> str:
    """Each name with how often it occurs, the most frequent first."""
    return ", ".join(f"{amount:,} {name}" for name, amount in sorted(Counter(names).items(), key=lambda one: (-one[1], one[0])))


def when(time: datetime) -> str:
    """A time of the log, UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """A duration in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    first = next(index for index, (amount, _) in enumerate(units) if amount)
    return " ".join(f"{amount} {unit}" for amount, unit in units[first : first + 2] if amount)


def not_finite(value: float) -> str:
    """NaN or an infinity by the name that the log has for it."""
    return {"nan": "NaN", "inf": "Infinity"}.get(str(value), "-Infinity")


def escaped(text: str, kept: str = "") -> str:
    """`text` with an escape for each character that a terminal would obey, those in `kept` apart: what stands in a log is shown."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in kept else one.encode("unicode_escape").decode() for one in text)


def number(value: float) -> str:
    """A number with four digits that count; NaN and infinities by name."""
    if not math.isfinite(value):
        return not_finite(value)
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def shown(value: Any) -> str:  # Any: whatever DuckDB returns; all else is written as Python has it.
    """A cell of a table."""
    match value:
        case None:
            return NOTHING
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return number(value)
        case list() | tuple():
            return ", ".join(map(shown, value)) or NOTHING
        case _:
            return when(value) if isinstance(value, datetime) else str(value)
