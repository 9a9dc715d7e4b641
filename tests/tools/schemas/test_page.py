"""docs/events.md says what the models say."""

import re
from pathlib import Path

import pytest

from esper.errors import DataError
from esper.events.digests import chain
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds import KINDS
from esper.events.topics import TOPICS
from tests.events.examples import EXAMPLE
from tools.schemas.__main__ import main
from tools.schemas.page import BEGIN, END, with_catalogue

PAGE = (Path(__file__).parents[3] / "docs" / "events.md").read_text(encoding="utf-8")


def test_catalogue_is_as_generated() -> None:
    assert with_catalogue(PAGE) == PAGE, "make it anew: python -m tools.schemas --docs"


@pytest.mark.parametrize("kind", KINDS)
def test_page_lists_every_kind_with_its_fields(kind: type[Event]) -> None:
    section = PAGE.split(f"### {kind.__name__}\n\n`{kind.KIND}`\n")[1].split("\n### ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(kind.model_fields)


@pytest.mark.parametrize("topic", TOPICS)
def test_page_has_a_section_for_every_topic(topic: str) -> None:
    assert f"\n## `{topic}`\n" in PAGE


@pytest.mark.parametrize("field", Record._fields)
def test_page_explains_every_field_of_the_envelope(field: str) -> None:
    envelope = PAGE.split("## The envelope")[1].split("\n## ")[0]
    assert re.search(rf"^\|[^|]*`{field}`[^|]*\|", envelope, re.MULTILINE)


def test_links_within_the_page_lead_to_headings() -> None:
    headings = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= headings


def test_chain_of_the_example_is_as_the_page_says() -> None:
    assert f"has after an empty chain the chain `{chain(EXAMPLE, b'').hex()}`" in PAGE


def test_docs_makes_the_catalogue_anew_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "events.md"
    page.write_text(f"before\n{BEGIN}\nwhat was here before\n{END}\nafter\n", encoding="utf-8")
    assert main(["--docs", str(page)]) == 0
    made = page.read_text(encoding="utf-8")
    assert made.startswith(f"before\n{BEGIN}\n\n## Headers on Kafka")
    assert made.endswith(f"\n{END}\nafter\n")
    assert "what was here before" not in made


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_page_without_its_markers_is_refused(page: str) -> None:
    with pytest.raises(DataError, match="expected one line"):
        with_catalogue(page)
