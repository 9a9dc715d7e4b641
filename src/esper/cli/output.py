"""Where the shell writes: styled on a terminal, the same words without colours or cursor movements in a pipe, JSON for programs."""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, JsonValue
from rich.console import Console
from rich.text import Text

from esper.events.times import written_time

WIDTH = 100


class Output:
    """Standard output as the shell uses it. `width` is 100 columns, less on a narrower terminal or where COLUMNS says so."""

    def __init__(self, file: TextIO | None = None) -> None:
        stream = sys.stdout if file is None else file
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a block character shows a question mark; it does not end the command.
            stream.reconfigure(errors="replace")
        self.interactive = stream.isatty()
        width = None if self.interactive or "COLUMNS" in os.environ else WIDTH
        self.console = Console(file=stream, highlight=False, emoji=False, markup=False, width=width)
        self.width = min(WIDTH, self.console.width)

    def lines(self, lines: Iterable[Text | str]) -> None:
        """Writes each line as it comes; a line that is too long for a terminal is its to wrap."""
        for line in lines:
            if self.interactive:
                self.console.print(line, soft_wrap=True)
            else:
                # The same words; a list of 10,000 runs spends a second in rich otherwise.
                self.raw(line.plain if isinstance(line, Text) else line)

    def json(self, value: object) -> None:
        """Writes `value` as one line of JSON."""
        self.raw(json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")))

    def raw(self, line: str) -> None:
        """Writes `line` as it is."""
        self.console.file.write(line + "\n")

    def flush(self) -> None:
        """Hands over what is buffered, so that a reader of a pipe sees it now."""
        self.console.file.flush()


def plain(value: object) -> JsonValue:
    """`value` as JSON: dataclasses, models and maps as objects, times in ISO 8601, what is not finite as the log's own words."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Enum | Path):
        return str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, datetime):
        return written_time(value)
    return _composed(value)


def _composed(value: object) -> JsonValue:
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: plain(getattr(value, name)) for name in value._fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form")


def hush() -> None:
    """Points standard output at nothing: its reader has gone, and Python's own flush at exit must not say so."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
