"""An answer to a question in SQL as a table, CSV, JSON and Parquet."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esper.audit.door.answer import Answer
from esper.cli.output import Output
from esper.cli.sql_answers import format_of, lines, show, summary, write
from esper.errors import RuleError
from tests.synthetic import RUN


def answer(**columns: list[Any]) -> Answer:  # Any: whatever Arrow takes.
    return Answer(pa.table(columns), 0.25)


def shown(found: Answer, width: int = 100) -> list[str]:
    file = StringIO()
    out = Output(file)
    out.width = width
    show(found, out)
    return file.getvalue().splitlines()


class TestTable:
    def test_numbers_stand_at_the_right_and_are_shortened(self) -> None:
        assert shown(answer(name=["a", "bc"], loss=[0.123456789, 1e-9])) == ["name      loss", "a     0.123457", "bc       1e-09"]

    def test_what_is_not_there_is_null_and_what_is_not_finite_has_its_name(self) -> None:
        assert shown(answer(a=[None, float("nan"), float("-inf")])) == ["        a", "     NULL", "      NaN", "-Infinity"]

    def test_a_long_text_is_cut_where_there_is_no_room(self) -> None:
        assert shown(answer(a=["x" * 50], b=["y"]), width=20) == ["a                  b", "xxxxxxxxxxxxxxxx…  y"]

    def test_a_run_is_named_shortly_where_there_is_no_room(self) -> None:
        found = answer(run=[RUN], reason=["x" * 20])
        assert shown(found, width=30)[1].split()[0] == f"…{RUN[-6:]}"
        assert shown(found, width=60)[1].split()[0] == RUN

    def test_a_row_is_a_list_of_its_columns_where_these_have_no_room(self) -> None:
        assert shown(answer(first=["x" * 20], second=["y" * 20]), width=15) == [
            "row 1",
            "first   xxxxxxx",
            "        xxxxxxx",
            "        xxxxxx",
            "second  yyyyyyy",
            "        yyyyyyy",
            "        yyyyyy",
        ]

    def test_columns_are_named_though_there_are_no_rows(self) -> None:
        assert shown(answer(first=[], second=[])) == ["first  second"]

    def test_it_says_how_many_rows_are_not_shown(self) -> None:
        assert shown(answer(a=list(range(501))))[-1].startswith("and 1 more rows")

    def test_what_would_steer_a_terminal_is_an_escape(self) -> None:
        assert shown(answer(a=["\x1b[31mred\r\n\u202e"])) == ["a", "\\x1b[31mred\\r\\n\\u202e"]

    def test_a_plan_is_drawn(self) -> None:
        assert shown(answer(explain_key=["physical_plan"], explain_value=["┌┐\n└┘\n"])) == ["┌┐", "└┘"]


class TestText:
    def test_csv_is_exact(self) -> None:
        found = answer(a=[0.1 + 0.2, None], b=[[1, None], []], c=[b"\x01", b""], d=['say "x", y', "z"], e=[True, False])
        assert list(lines(found, "csv")) == ["a,b,c,d,e", '0.30000000000000004,"[1,null]",01,"say ""x"", y",true', ",[],,z,false"]

    def test_times_are_written_in_utc(self) -> None:
        found = answer(a=[datetime(2026, 5, 1, 12, tzinfo=UTC)], b=[datetime(2026, 5, 1, 12, 0, 0, 5)])
        assert list(lines(found, "csv"))[1] == "2026-05-01 12:00:00,2026-05-01 12:00:00.000005"

    def test_json_has_an_object_a_row(self) -> None:
        found = answer(a=[1, 2], b=[float("nan"), 0.5], c=[{"x": [1]}, None])
        assert list(map(json.loads, lines(found, "json"))) == [{"a": 1, "b": "NaN", "c": {"x": [1]}}, {"a": 2, "b": 0.5, "c": None}]

    def test_decimals_are_numbers_where_that_is_exact(self) -> None:
        found = answer(a=[Decimal(2**70), Decimal("0.5"), Decimal("1234567890123456789.12345")])
        assert list(lines(found, "json")) == [f'{{"a":{2**70}}}', '{"a":0.5}', '{"a":"1234567890123456789.12345"}']


class TestFile:
    def test_parquet_is_the_answer_itself(self, tmp_path: Path) -> None:
        found = answer(a=[1, None], b=["x", "y"])
        write(found, "parquet", tmp_path / "x.parquet")
        assert pq.read_table(tmp_path / "x.parquet") == found.arrow
        assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]

    def test_what_parquet_lacks_is_refused_and_leaves_no_file(self, tmp_path: Path) -> None:
        spans = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
        with pytest.raises(RuleError, match="cast it to VARCHAR"):
            write(Answer(pa.table({"a": spans}), 0.1), "parquet", tmp_path / "x.parquet")
        assert list(tmp_path.iterdir()) == []

    def test_a_table_is_written_as_it_is_shown(self, tmp_path: Path) -> None:
        write(answer(a=[1]), "table", tmp_path / "x.txt")
        assert (tmp_path / "x.txt").read_text() == "a\n1\n"

    def test_a_folder_that_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RuleError, match="No such file"):
            write(answer(a=[1]), "csv", tmp_path / "nowhere" / "x.csv")


@pytest.mark.parametrize(
    ("typed", "file", "format"),
    [(None, None, "table"), (None, "x.csv", "csv"), (None, "x.jsonl", "json"), (None, "x", "table"), ("csv", "x.json", "csv")],
)
def test_a_format_that_was_not_typed_is_that_of_the_files_name(typed: str | None, file: str | None, format: str) -> None:  # noqa: A002
    assert format_of(typed, None if file is None else Path(file)) == format


def test_parquet_needs_a_file() -> None:
    with pytest.raises(RuleError, match="--out FILE"):
        format_of("parquet", None)


def test_a_summary_says_up_to_when() -> None:
    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert summary(answer(a=[1]), at).plain == "1 row · 0.25 s · up to 2026-05-01 12:00:00 UTC"
