"""The page holds no script and fetches nothing; what a log says is text in it; JSON says the same."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest

from esper.audit.report.making import Report
from esper.audit.report.render import html_of, json_of
from esper.oona.directory import Directory
from tests.audit.report.reports import failed, more_failures, passed, projected, report_of
from tests.synthetic import write_run

pytestmark = pytest.mark.whole

HOSTILE = "</title><script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>{{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would see: the tags, the attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(told: duckdb.DuckDBPyConnection) -> Report:
    return report_of(told, [*passed("log.chain"), failed("alert.handled", 120, "an alert has no outcome", 9)])


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[Report]:
    """A report of a run whose task, sites, reasons and violations are markup."""
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, task=HOSTILE)
    with projected(directory.path, tmp_path) as made:
        made.connection.execute("UPDATE transitions SET site = ?, blueprint = ?", [HOSTILE, HOSTILE])
        made.connection.execute("UPDATE outcomes SET reason = ?", [HOSTILE])
        yield report_of(made.connection, [failed("log.chain", 120, HOSTILE)])


def test_the_page_has_no_script_and_fetches_nothing(report: Report) -> None:
    page = Page(html_of(report))
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert [one for one in page.attributes if one[0].startswith("on") or one[0] in ("src", "srcset", "action", "style")] == []
    assert [value for name, value in page.attributes if name in ("href", "xlink:href") and not value.startswith("#")] == []
    assert re.findall(r"https?:|url\(|@import", html_of(report)) == []


def test_the_page_forbids_scripts_to_a_browser_too(report: Report) -> None:
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in Page(html_of(report)).attributes


def test_what_a_log_says_is_text(hostile: Report) -> None:
    page = Page(html_of(hostile))
    assert not {"script", "img"} & set(page.tags)
    assert [name for name, _ in page.attributes if name.startswith("on")] == []
    assert HOSTILE in page.text


def test_every_link_leads_somewhere(report: Report) -> None:
    page = Page(html_of(report))
    places = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for name, value in page.attributes if name == "href"} <= places


def test_no_place_has_the_name_of_another(report: Report) -> None:
    places = [value for name, value in Page(html_of(report)).attributes if name == "id"]
    assert sorted(places) == sorted(set(places))


def test_every_answer_stands_in_the_page_and_in_the_object(report: Report) -> None:
    text, told = Page(html_of(report)).text, json.loads(json_of(report))
    assert [one["answer"] for one in told["sections"]] == [section.answer for section in report.sections]
    assert [section.number for section in report.sections if section.answer not in text] == []


def test_the_object_names_its_shape(report: Report) -> None:
    told = json.loads(json_of(report))
    assert (told["format"], told["version"]) == ("esper.report", 1)
    assert told["violations"] == [{"check": "alert.handled", "moment": 120, "epoch": 8, "what": "an alert has no outcome"}]
    assert set(told["sections"][0]) == {"number", "anchor", "title", "answer", "tables", "checks", "cannot_show"}


def test_a_value_that_is_not_finite_is_a_word_in_the_object(report: Report) -> None:
    rows = json.loads(json_of(report))["sections"][1]["tables"][1]["rows"]
    assert [row[-1] for row in rows if row[6] == "finite"] == ["NaN"]


def test_violations_that_are_not_shown_are_counted(report: Report) -> None:
    assert "8 more: esper compliance" in Page(html_of(report)).text


def test_a_cut_table_leads_to_the_statement_that_gives_all(changed: duckdb.DuckDBPyConnection) -> None:
    more_failures(changed, 70)
    page = html_of(report_of(changed))
    assert '27 more: <a href="#sql-refusals">' in page
    assert 'id="sql-refusals"' in page


def test_the_drawing_has_a_title_and_a_description(report: Report) -> None:
    page = html_of(report)
    assert 'role="img" aria-labelledby="timeline-title timeline-description"' in page
    assert (
        "14 epochs: the validation loss goes from 1.4 to 0.2285; seeds lived in 6 slots; 7 refusals or failures, 8 alerts, 1 rollback"
        in page
    )


def test_a_run_without_an_epoch_has_no_drawing(told: duckdb.DuckDBPyConnection) -> None:
    page = html_of(report_of(told, run="nowhere"))
    assert "<svg" not in page
    assert "there is nothing to draw" in page
