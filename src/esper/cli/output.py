"""The shell's standard output: styled on a terminal, the same words without colours or cursor movements in a pipe, JSON for programs."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, TextIO, TypeVar

from pydantic_core import to_json
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.text import Text

from esper.cli.text import hanging
from esper.words import escaped

_WIDTH = 100
_LAYOUT = "\n\t"

_Row = TypeVar("_Row")


class _Console(Console):
    """A console that nothing in a text can steer: its own styles and movements alone do."""

    def render_str(self, text: str, **options: Any) -> Text:  # Any: Console's own.
        """`text` with its escapes, so that it has the room that it takes."""
        return super().render_str(escaped(text, _LAYOUT), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of `renderable`, with escapes where a Text has none."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text, _LAYOUT))


class Output:
    """Standard output as the shell uses it. `width` is 100 columns, less on a narrower terminal or where COLUMNS says so."""

    def __init__(self, file: TextIO | None = None) -> None:
        stream = sys.stdout if file is None else file
        if hasattr(stream, "reconfigure"):
            # A terminal that cannot show a block character shows a question mark; it does not end the command.
            stream.reconfigure(errors="replace")
        self.interactive = stream.isatty()
        width = None if self.interactive or "COLUMNS" in os.environ else _WIDTH
        self.console = _Console(file=stream, highlight=False, emoji=False, markup=False, width=width)
        self.width = min(_WIDTH, self.console.width)

    def print(self, *renderables: RenderableType) -> None:
        """Writes each renderable in `width` columns; in a pipe without the spaces that fill its lines."""
        with nullcontext() if self.interactive else self.console.capture() as captured:
            self.console.print(Group(*renderables), width=self.width)
        if captured is not None:
            for line in captured.get().splitlines():
                self.raw(line.rstrip())

    def line(self, *lines: Text | str) -> None:
        """Writes each line as it is, and at once; a terminal wraps one that is too long."""
        for line in lines:
            if self.interactive:
                self.console.print(line, soft_wrap=True)
            else:
                # The same words; a list of 10,000 runs spends a second in rich otherwise.
                self.raw(escaped(line.plain if isinstance(line, Text) else line, _LAYOUT))
        self.flush()

    def item(self, mark: str, style: str, name: str, words: str) -> None:
        """Writes `words` behind a styled mark and a name: wrapped beside them on a terminal, in one line in a pipe."""
        head = Text(f"{mark:<8}", style=style).append(f" {name} ", style="")
        if self.interactive:
            self.print(hanging(head, words))
        else:
            self.raw(escaped(f"{head.plain}{words}", _LAYOUT))

    def rows(
        self,
        rows: Iterable[_Row],
        draw: Callable[[_Row], None],
        *,
        json: bool,
        form: Callable[[_Row], object] = lambda row: row,
        none: str = "",
    ) -> list[_Row]:
        """Writes each row as it is made: by `draw`, or if `json` its `form` as a line of JSON. Returns the rows.

        Where there are none, it writes the line `none` unless JSON is asked for.
        """
        written = []
        for row in rows:
            written.append(row)
            if json:
                self.json(form(row))
            else:
                draw(row)
        if none and not written and not json:
            self.line(none)
        return written

    def json(self, value: object) -> None:
        """Writes `value` as one line of JSON: models, dataclasses and maps as objects, what is not finite as the log's own words.

        A named tuple is an object too, but not within another value. What a terminal would obey is escaped, as JSON does it.
        """
        named = value._asdict() if isinstance(value, tuple) and hasattr(value, "_asdict") else value
        text = to_json(named, inf_nan_mode="strings", fallback=_plain).decode()
        # Outside of strings JSON is ASCII that is printed as it is.
        self.raw(text if text.isprintable() else "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text))

    def raw(self, line: str) -> None:
        """Writes `line` as it is."""
        self.console.file.write(line + "\n")

    def flush(self) -> None:
        """Hands over what is buffered, so that a reader of a pipe sees it now."""
        self.console.file.flush()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
