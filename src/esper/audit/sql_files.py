"""SQL that stands in files: the views and macros of a projection, and the twenty questions that `esper sql --examples` prints."""

from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple


class StoredView(NamedTuple):
    """A view or a macro: its name, `VIEW`, `MACRO` or `MACRO TABLE`, its meaning in a line, and the statement that makes it."""

    name: str
    kind: str
    meaning: str
    text: str


class Example(NamedTuple):
    """A question, and the statement that answers it."""

    question: str
    sql: str


def examples() -> tuple[Example, ...]:
    """Every example, in order."""
    text = (files("esper.audit") / "examples.sql").read_text(encoding="utf-8")
    parts = (part.partition("\n") for part in text.strip().split("\n\n"))
    return tuple(Example(question.removeprefix("-- "), sql.strip().removesuffix(";")) for question, _, sql in parts)


def views() -> Iterator[StoredView]:
    """Every view and macro, in the order in which they are made. The comment above each statement is its meaning."""
    folder = files("esper.audit") / "views"
    for path in sorted((path for path in folder.iterdir() if path.name.endswith(".sql")), key=lambda path: path.name):
        text = path.read_text(encoding="utf-8")
        meaning = text.partition("\n")[0].removeprefix("-- ")
        kind = "VIEW" if "CREATE VIEW" in text else "MACRO TABLE" if "AS TABLE" in text else "MACRO"
        yield StoredView(path.name.removesuffix(".sql"), kind, meaning, text)
