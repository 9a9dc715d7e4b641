"""Keys and tables are found on their lines, whatever stands between them."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.settings import Path, line_of, lines_of

TEXT = '''# a comment with [[rule]] and key = 1

off = [   # a bracket in a comment: ]
  "a",
  "b]",
]

[[rule]]            # first
name = "one # not a comment"
text = """
[[rule]]
name = "inside a string"
a quote \\""" and more"""
raw = \'\'\'
for = "no"
\'\'\'
for = "5m"

[rule.labels]
team = "x"
"quoted key" = 1

[[rule]]
name = 'two'
where = { state = "dead", list = [1,
  2] }
labels.team = "y"
labels."a.b" = "z"
late = """ends with quotes"""""
last = 1
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("off",), 3),
        (("rule",), 8),
        (("rule", 0), 8),
        (("rule", 0, "name"), 9),
        (("rule", 0, "text"), 10),
        (("rule", 0, "raw"), 14),
        (("rule", 0, "for"), 17),
        (("rule", 0, "labels"), 19),
        (("rule", 0, "labels", "team"), 20),
        (("rule", 0, "labels", "quoted key"), 21),
        (("rule", 1), 23),
        (("rule", 1, "name"), 24),
        (("rule", 1, "where"), 25),
        (("rule", 1, "labels"), 27),
        (("rule", 1, "labels", "team"), 27),
        (("rule", 1, "labels", "a.b"), 28),
        (("rule", 1, "late"), 29),
        (("rule", 1, "last"), 30),
    ],
)
def test_a_key_is_found_on_its_line(path: Path, line: int) -> None:
    assert lines_of(TEXT)[path] == line


def test_nothing_else_is_found() -> None:
    assert tomllib.loads(TEXT)["rule"][1]["late"] == 'ends with quotes""'
    assert len(lines_of(TEXT)) == 18


@pytest.mark.parametrize(
    ("path", "line"), [(("rule", 1, "where", "state"), 25), (("rule", 0, "severity"), 8), (("rule", 7, "name"), 8), (("none",), 1)]
)
def test_what_has_no_line_of_its_own_stands_where_its_table_does(path: Path, line: int) -> None:
    assert line_of(lines_of(TEXT), path) == line


def test_lines_that_end_as_on_windows_are_counted_the_same() -> None:
    assert lines_of(TEXT.replace("\n", "\r\n")) == lines_of(TEXT)


def test_arrays_of_tables_inside_one_another_are_told_apart() -> None:
    assert lines_of("[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\nk=1")[("a", 1, "b", 0, "k")] == 6


VALUES = st.sampled_from(
    ["1", '"#"', "'['", '"""\n[x]\n"""', "[1, # ]\n 2]", "{ a = [1] }", "'''\na = 1'''", '"\\""', "2026-01-01", '"""a\\\n  b"""', "-inf"]
)


@given(st.lists(st.tuples(VALUES, st.sampled_from(["", "  # end", "\n", "\n# k = 1\n"])), min_size=1, max_size=8))
def test_the_keys_found_are_those_that_the_parser_sees(entries: list[tuple[str, str]]) -> None:
    lines, text = [], ""
    for place, (value, behind) in enumerate(entries):
        lines.append((f"key{place}", text.count("\n") + 1))
        text += f"key{place} = {value}{behind}\n"
    assert list(tomllib.loads(text)) == [key for key, _ in lines]
    assert [(path[0], line) for path, line in lines_of(text).items()] == lines
