"""Twenty questions to a log with their SQL: what `esper sql --examples` prints, and a place to begin from."""

from importlib.resources import files
from typing import NamedTuple


class Example(NamedTuple):
    """A question, and the statement that answers it."""

    question: str
    sql: str


def examples() -> tuple[Example, ...]:
    """Every example, in order."""
    text = (files("esper.audit") / "examples.sql").read_text(encoding="utf-8")
    parts = (part.partition("\n") for part in text.strip().split("\n\n"))
    return tuple(Example(question.removeprefix("-- "), sql.strip().removesuffix(";")) for question, _, sql in parts)
