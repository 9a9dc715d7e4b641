"""Alerts as lines of text."""

from pathlib import Path

import pytest

from esper.observer.delivery.handlers.line import line, lines_to
from esper.observer.delivery.notices import linker, notice_of
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert, now


def test_a_line_says_what_and_where_to_look() -> None:
    assert line(notice_of(alert(7), LINK), now(2).time) == (
        "2026-03-01T12:00:02.000250Z warning firing loss-not-finite: the loss is not a finite number"
        f" | esper show {RUN} --at 1234 | {RUN}/{7:016x}/2026-03-01T12:00:00.000250Z"
    )
    page = line(notice_of(alert(7, firing=False), linker(base_url="http://n")), BEGIN)
    assert "warning resolved loss-not-finite" in page
    assert f" | http://n/api/v1/runs/{RUN}/state?at=1234 | " in page


def test_foreign_text_can_neither_break_a_line_nor_move_the_cursor() -> None:
    made = line(notice_of(alert(7, annotations={"summary": "one\ntwo\x1b[2J\u2028three " + "x" * 5000}), LINK), BEGIN)
    assert made.isprintable()
    assert "one two [2J three xxx" in made
    assert len(made) < 1500


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_to(None)([notice_of(alert(7), LINK)], BEGIN).delivered
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", line(notice_of(alert(7), LINK), BEGIN) + "\n")


def test_lines_are_appended_to_a_file(tmp_path: Path) -> None:
    send = lines_to(tmp_path / "alerts.log")
    send([notice_of(alert(7), LINK)], BEGIN)
    send([notice_of(alert(8), LINK)], BEGIN)
    assert [f"{number:016x}" in text for number, text in zip((7, 8), (tmp_path / "alerts.log").read_text().splitlines(), strict=True)]


def test_a_file_that_cannot_be_written_is_an_answer(tmp_path: Path) -> None:
    answer = lines_to(tmp_path)([notice_of(alert(7), LINK)], BEGIN)
    assert (answer.delivered, answer.error) == (False, f"cannot write to {tmp_path}: Is a directory")
