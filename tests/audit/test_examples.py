"""Every example answers its question."""

import pytest

from esper.audit.sql_files import Example, examples
from tests.audit.conftest import Ask

pytestmark = pytest.mark.whole

NOTHING_TO_TELL = {
    "Did two runs have the same code, data, packages and settings?",
    "Which settings differ between runs?",
    "Was any decision applied that was not above the limits in force?",
    "Is any record altered, missing, or not what its chain says?",
    "Which runs are held, until when, and why?",
}
"""Of one sound run that nobody holds."""


def test_there_are_twenty() -> None:
    assert len({example.question for example in examples()}) == 20


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.question)
def test_an_example_gives_rows_where_there_is_something_to_tell(ask: Ask, example: Example) -> None:
    assert example.question.rstrip(".").endswith(("?", "was not said"))
    assert bool(ask(example.sql)) == (example.question not in NOTHING_TO_TELL)
