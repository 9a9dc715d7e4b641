"""The reader of TOML files: settings as a model, and every mistake with its line, the reason, and the nearest known key."""

import re
import tomllib
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from esper.errors import SettingsError
from esper.settings import KeyPath, TomlFile, read_text, settings_of

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


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("off",), 3),
        (("off", 1), 3),
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
        (("rule", 1, "where", "state"), 25),
        (("rule", 1, "labels"), 27),
        (("rule", 1, "labels", "team"), 27),
        (("rule", 1, "labels", "a.b"), 28),
        (("rule", 1, "late"), 29),
        (("rule", 1, "last"), 30),
        (("rule", 0, "severity"), 8),
        (("rule", 7, "name"), 8),
        (("none",), 1),
    ],
)
def test_a_key_is_found_on_its_line_and_an_absent_one_where_its_table_is(path: KeyPath, line: int, ending: str) -> None:
    assert TomlFile(TEXT.replace("\n", ending), "t").line_of(path) == line


def test_arrays_of_tables_inside_one_another_are_distinguished() -> None:
    assert TomlFile("[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\nk=1", "t").line_of(("a", 1, "b", 0, "k")) == 6


VALUES = st.sampled_from(
    ["1", '"#"', "'['", '"""\n[x]\n"""', "[1, # ]\n 2]", "{ a = [1] }", "'''\na = 1'''", '"\\""', "2026-01-01", '"""a\\\n  b"""', "-inf"]
)


@given(st.lists(st.tuples(VALUES, st.sampled_from(["", "  # end", "\n", "\n# k = 1\n"])), min_size=1, max_size=8))
def test_every_key_is_found_on_its_line(entries: list[tuple[str, str]]) -> None:
    lines, text = {}, ""
    for place, (value, behind) in enumerate(entries):
        lines[f"key{place}"] = text.count("\n") + 1
        text += f"key{place} = {value}{behind}\n"
    assert list(tomllib.loads(text)) == list(lines)
    file = TomlFile(text, "t")
    assert {key: file.line_of((key,)) for key in lines} == lines


class Inner(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    length_s: Annotated[float, Field(gt=0)] = 1.0
    names: tuple[str, ...] = ()
    either: int | str = 0


class Outer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    inner: Inner = Inner()
    item: tuple[Inner, ...] = ()
    port: Annotated[int, Field(ge=1)] = 1
    from_: Annotated[str, Field(alias="from")] = ""
    url: str = ""


def test_tables_lists_and_defaults_become_a_model() -> None:
    settings = TomlFile('port = 2\nfrom = "x"\n[inner]\nnames = ["a"]\n[[item]]\nlength_s = 2', "t").table(Outer)
    assert (settings.port, settings.from_, settings.inner.names) == (2, "x", ("a",))
    assert settings.item == (Inner(length_s=2),)


MISTAKES = [
    ("port = ", 1, "Invalid value"),
    ('port = 1\nurl = "a', 2, "Unterminated string"),
    ("prt = 1", 1, "prt: unknown key, perhaps port; expected one of inner, item, port, from, url"),
    ("xyz = 1", 1, "xyz: unknown key; expected one of inner, item, port, from, url"),
    ("length_s = 1", 1, "length_s: unknown key, perhaps inner.length_s; expected one of inner, "),
    ("[inner]\n\nlenght_s = 1", 3, "inner.lenght_s: unknown key, perhaps length_s; expected one of length_s, names, either"),
    ("inner = 3", 1, "inner: expected a table [inner], got 3"),
    ("[item]", 1, "item: expected [[item]] tables, got {}"),
    ("[[item]]\n[[item]]\nname = 1", 3, "item.1.name: unknown key, perhaps names; expected one of length_s, names, either"),
    ("item = 3", 1, "item: expected a list, got 3"),
    ("item = [1]", 1, "item.0: expected [[item]] tables, got 1"),
    ("port = '1'", 1, "port: expected a whole number, got '1'"),
    ("port = true", 1, "port: expected a whole number, got True"),
    ("port = 1.5", 1, "port: expected a whole number, got 1.5"),
    ("port = 0", 1, "port: expected a number greater than or equal to 1, got 0"),
    ("url = 1", 1, "url: expected a text"),
    ("[inner]\nlength_s = nan", 2, "inner.length_s: expected a finite number, got nan"),
    ("[inner]\nnames = 'a'", 2, "inner.names: expected a list, got 'a'"),
    ("[inner]\nnames = ['a', 1]", 2, "inner.names.1: expected a text, got 1"),
    ("[inner]\neither = [1]", 2, "inner.either: expected a whole number, got [1]"),
    ("\nurl = 1\nport = 0", 2, "url: expected a text"),
]


@pytest.mark.parametrize(("text", "line", "reason"), MISTAKES)
def test_a_mistake_is_refused_with_its_line_and_the_reason(text: str, line: int, reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"^mine.toml:{line}: {re.escape(reason)}"):
        TomlFile(text, "mine.toml").table(Outer)


def test_a_table_of_the_file_may_be_read_alone() -> None:
    file = TomlFile("[other]\nx = 1\n[inner]\nlength_s = 0\n", "t")
    with pytest.raises(SettingsError, match=r"^t:4: length_s: expected a number greater than 0, got 0$"):
        file.table(Inner, ("inner",))
    with pytest.raises(SettingsError, match=r"^t:2: expected a table \[other.x\], got 1$"):
        file.table(Inner, ("other", "x"))
    assert file.table(Outer, ("none",)) == Outer()


def test_a_secret_is_in_no_message() -> None:
    with pytest.raises(SettingsError, match=r"^t:1: url: expected a text$"):
        TomlFile("url = 31337", "t").table(Outer, secret=("url",))


def test_a_missing_key_is_named() -> None:
    class Needed(BaseModel):
        port: int

    with pytest.raises(SettingsError, match=r"^t:1: port: expected this key, got nothing$"):
        TomlFile("", "t").table(Needed)


def test_settings_of_a_program_are_refused_by_their_dotted_name() -> None:
    with pytest.raises(SettingsError, match=r"^setting nissa\.port: expected a whole number, got None$"):
        settings_of(Outer, {"port": None}, "nissa")
    with pytest.raises(SettingsError, match=r"^setting inner\.names: expected a list, got 'a'$"):
        settings_of(Outer, {"inner": {"names": "a"}})


def test_a_named_file_must_be_there_and_the_usual_one_need_not(tmp_path: Path) -> None:
    (tmp_path / "usual.toml").write_text("x = 1")
    assert read_text("rules", None, tmp_path / "usual.toml") == ("x = 1", str(tmp_path / "usual.toml"))
    assert read_text("rules", None, tmp_path / "none.toml") is None
    with pytest.raises(SettingsError, match=f"^expected rules at {tmp_path}/none.toml, got nothing$"):
        read_text("rules", tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=f"^cannot read rules at {tmp_path}/binary.toml: 'utf-8' codec"):
        read_text("rules", tmp_path / "binary.toml")
