"""An answer to a question in SQL as text: a table for people, CSV or JSON for programs, Parquet for other engines.

What stands in a log is shown, never obeyed: characters that would steer a terminal are written as escapes. Only a table shortens numbers.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import to_json
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from esper.cli.output import Output
from esper.cli.text import count, short_id
from esper.durable import replace_file
from esper.errors import RuleError
from esper.events.envelope import RunId
from esper.words import escaped, not_finite, plural

if TYPE_CHECKING:
    from pyarrow import Schema
    from rich.console import JustifyMethod

    from esper.audit.door.answer import Answer

FORMATS = ("table", "csv", "json", "parquet")
_ENDINGS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_MOST_SHOWN = 500
_LEAST_WIDTH, _GAP = 8, 2  # Of a column that is longer than there is room for.
_NUMBERS = ("int", "uint", "float", "double", "halffloat", "decimal")
_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def format_of(typed: str | None, file: Path | None) -> str:
    """The format that was `typed`, else what the name of the `file` says, else a table. Raises RuleError for Parquet without a file."""
    chosen = typed or (_ENDINGS.get(file.suffix, "table") if file is not None else "table")
    if chosen == "parquet" and file is None:
        raise RuleError("expected a file for Parquet, got none: name it with --out FILE")
    return chosen


def write(answer: "Answer", format: str, file: Path, width: int = 100) -> None:  # noqa: A002 - the word of the command line.
    """Writes `answer` to `file`, whole or not at all."""
    content = _parquet(answer) if format == "parquet" else "".join(line + "\n" for line in lines(answer, format, width)).encode()
    try:
        replace_file(file, content)
    except OSError as error:
        raise RuleError(f"cannot write the answer to {file}: {error.strerror or error}") from error


def lines(answer: "Answer", format: str, width: int = 100) -> Iterator[str]:  # noqa: A002 - the word of the command line.
    """The lines of `answer` as a table of `width` columns, as CSV, or as JSON with an object per line."""
    if format == "table":
        buffer = io.StringIO()
        out = Output(buffer)
        out.width = width
        show(answer, out)
        yield from buffer.getvalue().splitlines()
        return
    names, rows = answer.arrow.column_names, answer.rows()
    if format == "json":
        yield from (to_json(dict(zip(names, map(_json, row), strict=True)), inf_nan_mode="strings", fallback=str).decode() for row in rows)
        return
    for row in (names, *(map(_csv, row) for row in rows)):
        written = io.StringIO()
        csv.writer(written, lineterminator="").writerow(row)
        yield written.getvalue()


def show(answer: "Answer", out: Output) -> None:
    """Writes `answer` as a table in the width of `out`: the first rows, and how many more there are.

    Where its columns have no room beside each other, each row is a list of them.
    """
    names: list[str] = answer.arrow.column_names
    if names == ["explain_key", "explain_value"]:  # A drawing.
        out.line(*(line for row in answer.rows() for line in str(row[1]).rstrip().splitlines()))
        return
    shown = answer.arrow.slice(0, _MOST_SHOWN)
    rows = [list(map(_cell, row)) for row in type(answer)(shown, answer.took_s).rows()]
    widths = _widths(names, rows, out.width)
    if widths is None:
        rows = [list(map(_short, row)) for row in rows]
        widths = _widths(names, rows, out.width, least=_LEAST_WIDTH)
    if widths is not None:
        out.print(_table(shown.schema, rows, widths))
    elif not rows:
        out.print(Text(", ".join(map(escaped, names)), style="bold"))
    for number, row in enumerate(rows if widths is None else (), 1):
        out.line(Text(f"row {number}", style="dim"))
        out.print(_listed(names, row))
    more = answer.arrow.num_rows - len(rows)
    if more:
        out.line(Text(f"and {count(more)} more rows: add a LIMIT or a WHERE, or take all with --format csv", style="yellow"))


def summary(answer: "Answer", as_of: datetime | None = None) -> Text:
    """The number of rows, the time that it took, and the time up to which everything in the log is in them."""
    up_to = "" if as_of is None else f" · up to {as_of:%Y-%m-%d %H:%M:%S} UTC"
    return Text(f"{plural(answer.arrow.num_rows, 'row')} · {answer.took_s:.2f} s{up_to}", style="dim")


def _widths(names: Sequence[str], rows: Sequence[Sequence[Text]], room: int, least: int | None = None) -> list[int] | None:
    """The width of each column: what it needs, or, where there is not so much room, not below `least` or its name; None: there is not."""
    widths = [max([cell_len(escaped(name)), *(row[number].cell_len for row in rows)]) for number, name in enumerate(names)]
    floors = (
        widths if least is None else [min(width, max(least, cell_len(escaped(name)))) for width, name in zip(widths, names, strict=True)]
    )
    room -= _GAP * (len(widths) - 1)
    if sum(floors) > room:
        return None
    while sum(widths) > room:
        wide = max(range(len(widths)), key=lambda number: widths[number] - floors[number])
        widths[wide] -= 1
    return widths


def _table(schema: "Schema", rows: Sequence[Sequence[Text]], widths: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for field, width in zip(schema, widths, strict=True):
        justify: JustifyMethod = "right" if str(field.type).startswith(_NUMBERS) else "left"
        table.add_column(Text(escaped(field.name)), justify=justify, overflow="ellipsis", no_wrap=True, width=width)
    for row in rows:
        table.add_row(*row)
    return table


def _listed(names: Sequence[str], row: Sequence[Text]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, _GAP, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, cell in zip(names, row, strict=True):
        table.add_row(Text(escaped(name)), cell)
    return table


def _short(cell: Text) -> Text:
    """`cell`, the last digits of it alone where it is a run's id."""
    return Text(short_id(RunId(cell.plain)), style=cell.style) if _RUN.fullmatch(cell.plain) else cell


def _cell(value: object) -> Text:
    if value is None:
        return Text("NULL", style="dim")
    if isinstance(value, float):
        return Text(f"{value:.6g}" if math.isfinite(value) else _csv(value))
    return Text(escaped(_csv(value)))


def _csv(value: object) -> str:
    """`value` as a field of CSV: nothing for NULL, JSON for what has parts, the log's own words for what is not finite."""
    match value:
        case None:
            text = ""
        case bool():
            text = "true" if value else "false"
        case float() if not math.isfinite(value):
            text = not_finite(value)
        case bytes():
            text = value.hex()
        case datetime():
            text = value.isoformat(" ").removesuffix("+00:00")
        case list() | dict():
            text = to_json(_json(value), inf_nan_mode="strings", fallback=str).decode()
        case _:
            text = str(value)
    return text


def _json(value: object) -> object:
    """`value` with decimals as numbers where those are exact, else as texts, and bytes as hexadecimal digits."""
    match value:
        case Decimal() if value.is_finite():
            whole = value == value.to_integral_value()
            near = int(value) if whole else float(value)
            return near if Decimal(repr(near)) == value else str(value)
        case bytes():
            return value.hex()
        case list():
            return [_json(one) for one in value]
        case dict():
            return {str(_json(key)): _json(one) for key, one in value.items()}
        case _:
            return value


def _parquet(answer: "Answer") -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    written = io.BytesIO()
    try:
        pq.write_table(answer.arrow, written)
    except pa.ArrowNotImplementedError as error:
        raise RuleError(f"expected columns that Parquet has: {error}; cast it to VARCHAR in the query") from error
    return written.getvalue()
