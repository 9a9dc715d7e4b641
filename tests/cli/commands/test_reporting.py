"""`esper report`."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Esper
from tests.synthetic import RUN

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def here(synthetic_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, esper: Esper) -> Path:
    """A directory to work in, beside a log of the test's own, the environment's."""
    del esper  # It names another log, so it comes first.
    shutil.copytree(synthetic_log, tmp_path / "log")
    monkeypatch.setenv("ESPER_LOG", str(tmp_path / "log"))
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_page_and_json_beside_it_are_written_and_the_answers_are_said(esper: Esper, here: Path) -> None:
    said = esper("report", "latest")
    assert said.code == 0
    assert said.lines[0] == "run …7c21ab: report-7c21ab.html and report-7c21ab.json"
    assert " 5 Unknown: nobody observed this run, so no alert could fire." in said.lines
    assert (here / "report-7c21ab.html").read_text().startswith("<!doctype html>")
    assert json.loads((here / "report-7c21ab.json").read_text())["run"] == RUN


def test_the_page_is_written_where_it_is_asked_for(esper: Esper, here: Path) -> None:
    esper("report", "latest", "--out", "page.html")
    assert sorted(path.name for path in here.iterdir()) == ["page.html", "page.json"]


@pytest.mark.parametrize("name", ["page.json", ".", "/"])
def test_a_page_that_its_json_would_replace_is_refused(esper: Esper, here: Path, name: str) -> None:
    said = esper("report", "latest", "--out", name)
    assert (said.code, list(here.iterdir())) == (1, [])
    assert said.err.startswith("esper: --out: expected a page's name, like report.html")


def test_json_writes_no_file(esper: Esper, here: Path) -> None:
    told = json.loads(esper("report", "latest", "--json", "--on", "2026-02-28").out)
    assert (told["format"], told["on"], told["sections"][10]["answer"]) == (
        "esper.report",
        "2026-02-28",
        "At the end of 2026-02-28 (UTC) this run had not begun.",
    )
    assert list(here.iterdir()) == []


def test_a_model_file_is_compared(esper: Esper, here: Path) -> None:
    (here / "model.pt").write_bytes(b"\x80\x02}q\x00.")
    told = json.loads(esper("report", "latest", "--json", "--model", "model.pt").out)
    assert told["model"]["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--on", "1.3.2026"), "esper: --on: expected a day like 2036-12-31, got '1.3.2026'\n"),
        (("--model", "nothing"), "esper: --model: expected a file or a folder, got nothing at nothing\n"),
        (("--out", "no/page.html"), "esper: cannot write the report to no/page.html: No such file or directory\n"),
    ],
)
def test_what_cannot_be_done_is_said(esper: Esper, arguments: tuple[str, ...], said: str) -> None:
    found = esper("report", "latest", *arguments)
    assert (found.code, found.err) == (1, said)
