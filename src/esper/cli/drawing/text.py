"""Numbers, names and small curves as text. What was not measured is said to be unknown; it is never drawn as zero."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from esper.events.envelope import EventId, RunId

UNKNOWN = "unknown"
_BLOCKS = "▁▂▃▄▅▆▇█"
_NOT_FINITE = "!"
_GAP = " "
# A no-break space: textwrap does not break there.
_STICKY = "\xa0"


def number(value: float | None, decimals: int = 3) -> str:
    """`value` with `decimals` places, in scientific form where that would show only zeros; NaN and infinities by name."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return {True: "NaN"}.get(math.isnan(value), "Infinity" if value > 0 else "-Infinity")
    if value != 0 and abs(value) < 10.0**-decimals:
        return f"{value:.1e}".replace("e-0", "e-")
    return f"{value:.{decimals}f}"


def rate(value: float | None) -> str:
    """A learning rate: always in scientific form."""
    return UNKNOWN if value is None else f"{value:.1e}".replace("e-0", "e-").replace("e+00", "")


def share(value: float | None) -> str:
    """A confidence or an urgency: three places, so that what is just above a limit does not look as if it were on it."""
    return UNKNOWN if value is None else f"{value:.3f}" if math.isfinite(value) else number(value)


def percent(fraction: float | None, decimals: int = 1) -> str:
    """A fraction as a percentage."""
    return UNKNOWN if fraction is None else f"{number(fraction * 100, decimals)} %"


def count(value: int | None) -> str:
    """A count with thousands marked."""
    return UNKNOWN if value is None else f"{value:,}"


def lasting(seconds: float | None) -> str:
    """A duration in two units at most, the second only where it says something."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    units = (
        (round(seconds) // 86400, "d"),
        (round(seconds) // 3600 % 24, "h"),
        (round(seconds) // 60 % 60, "min"),
        (round(seconds) % 60, "s"),
    )
    first = next(index for index, (many, _) in enumerate(units) if many)
    return " ".join(f"{many} {unit}" for many, unit in units[first : first + 2] if many)


def clock(time: datetime | None) -> str:
    """A time of the log, UTC, to the second."""
    return UNKNOWN if time is None else time.strftime("%Y-%m-%d %H:%M:%S")


def short(run: RunId) -> str:
    """The end of a run's id, which is what people see and type."""
    return f"…{run[-6:]}"


def place(event_id: EventId) -> str:
    """Where the record named by `event_id` stands: `@moment` for a run's own record, else the start of a derived id."""
    run, slash, moment = event_id.rpartition("/")
    return f"@{moment}" if slash and "/" not in run else event_id[:8]


def sparkline(values: Sequence[float | None], width: int) -> str:
    """`values` as a curve of at most `width` blocks between least and greatest; a gap is unknown, "!" not finite.

    Where all are above 0, as losses are, the scale is logarithmic: a late improvement shows beside an early one. Where there are more
    values than blocks, a block is the mean of its share, and "!" if any of its share is not finite.
    """
    blocks = [_share(values, i, width) for i in range(width)] if len(values) > width else list(values)
    if all(value > 0 for value in blocks if value is not None and math.isfinite(value)):
        blocks = [value if value is None or not math.isfinite(value) else math.log(value) for value in blocks]
    known = [value for value in blocks if value is not None and math.isfinite(value)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    return "".join(_block(value, low, span) for value in blocks)


def _share(values: Sequence[float | None], index: int, width: int) -> float | None:
    share = values[index * len(values) // width : (index + 1) * len(values) // width]
    known = [value for value in share if value is not None]
    return sum(known) / len(known) if known else None


def _block(value: float | None, low: float, span: float) -> str:
    if value is None:
        return _GAP
    if not math.isfinite(value):
        return _NOT_FINITE
    return _BLOCKS[min(len(_BLOCKS) - 1, int((value - low) / span * len(_BLOCKS)))] if span > 0 else _BLOCKS[0]


def bar(done: int, planned: int, width: int) -> str:
    """A progress bar of `width` characters."""
    filled = min(width, width * done // planned) if planned > 0 else 0
    return "━" * filled + ("╸" + "─" * (width - filled - 1) if filled < width else "")


def wrapped(words: str, width: int, indent: int) -> list[str]:
    """`words` in lines of at most `width` characters, each indented by `indent`."""
    return hanging(" " * indent, words, width)


def hanging(head: str, words: str, width: int) -> list[str]:
    """`words` behind `head` in lines of at most `width` characters; those that follow are indented as far."""
    space = " " * len(head)
    return textwrap.wrap(words, max(width, len(head) + 20), initial_indent=head, subsequent_indent=space, break_on_hyphens=False)


def listed(parts: Iterable[str], width: int, indent: int) -> list[str]:
    """`parts` with dots between them in lines of at most `width` characters, each indented by `indent`; no part is broken that fits one."""
    words = " · ".join(part.replace(" ", _STICKY) for part in parts).replace(" · ", f"{_STICKY}· ")
    return [line.replace(_STICKY, " ") for line in wrapped(words, width, indent)]


def fitted(parts: Sequence[str], width: int) -> str:
    """Those of `parts` that `width` characters hold with two spaces between them; the first always, and earlier before later ones."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 2 + len(part) <= width:
            line += f"  {part}"
    return line


def many(number: int, noun: str) -> str:
    """A count with its noun, which takes an s."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def metric(name: str, value: float | None) -> str:
    """A metric with its name; an accuracy as a percentage."""
    return f"{name} {percent(value) if name.endswith('accuracy') else number(value)}"


def within(text: str, width: int) -> str:
    """`text` in at most `width` characters, an ellipsis in its middle where it was cut."""
    end = max(0, (width - 1) // 2)
    return text if len(text) <= width else f"{text[: max(0, width - 1 - end)]}…{text[len(text) - end :]}"


def first_metrics(metrics: Mapping[str, float]) -> list[str]:
    """The first two metrics with their names, where room is short."""
    return [metric(name, value).replace("accuracy", "acc") for name, value in list(metrics.items())[:2]]


def clipped(text: str, width: int) -> str:
    """`text` in at most `width` characters, an ellipsis where it was cut."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
