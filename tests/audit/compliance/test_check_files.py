"""A check's file is read strictly: each mistake has a line, what was expected, and what came."""

from pathlib import Path

import pytest

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.check_files import parse_check
from esper.errors import SettingsError

HEADER = """\
-- name = "house.rule"
-- version = 2
-- title = "a rule"
-- proves = "something"
-- cannot_show = "more"
-- clauses = ["rule 4", "rule 5"]

"""
POPULATION = "-- population\nSELECT run, moment FROM epochs;\n\n"
VIOLATIONS = "-- violations\nSELECT run, moment, 'wrong' AS what FROM population\n-- for ever\n"
WHOLE = HEADER + POPULATION + VIOLATIONS


def refusal(text: str) -> str:
    """What is said of `text` as a check."""
    with pytest.raises(SettingsError) as refused:
        parse_check(text, "house.rule.sql")
    return str(refused.value)


def test_a_check_has_its_header_and_its_two_queries() -> None:
    check = parse_check(WHOLE, "house.rule.sql")
    assert (check.name, check.header.version, check.header.clauses) == ("house.rule", 2, ("rule 4", "rule 5"))
    assert check.population == "SELECT run, moment FROM epochs"
    assert check.violations == "SELECT run, moment, 'wrong' AS what FROM population\n-- for ever"


def test_the_digest_of_a_check_is_that_of_its_text() -> None:
    digests = {parse_check(text, "house.rule.sql").digest for text in (WHOLE, WHOLE, WHOLE.replace("a rule", "another"))}
    assert len(digests) == 2


def test_line_ends_of_windows_change_nothing_but_the_digest() -> None:
    assert parse_check(WHOLE.replace("\n", "\r\n"), "house.rule.sql").population == "SELECT run, moment FROM epochs"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WHOLE.replace('-- title = "a rule"\n', ""), "house.rule.sql:1: title: expected this key, got nothing"),
        (WHOLE.replace("version = 2", "version = 0"), "house.rule.sql:2: version: expected a number greater than or equal to 1, got 0"),
        (WHOLE.replace("version = 2", 'version = "2"'), "house.rule.sql:2: version: expected a whole number, got '2'"),
        (WHOLE.replace("proves", "prooves"), "house.rule.sql:1: proves: expected this key, got nothing"),
        (WHOLE.replace("house.rule", "House"), "house.rule.sql:1: name: String should match pattern"),
        (WHOLE.replace('"rule 4", "rule 5"', ""), "house.rule.sql:6: clauses: expected"),
        (WHOLE.replace('-- version = 2', "version = 2"), "house.rule.sql:2: expected the header, lines that begin with `--`"),
        (WHOLE.replace("version = 2", "version ="), "house.rule.sql:2: Invalid value"),
        (HEADER + VIOLATIONS, "expected one line `-- population`, got none"),
        (HEADER + POPULATION, "expected one line `-- violations`, got none"),
        (WHOLE + POPULATION, "house.rule.sql:14: expected one line `-- population`, got 2"),
        (HEADER + VIOLATIONS + POPULATION, "house.rule.sql:8: expected `-- population` before `-- violations`"),
        (HEADER + "-- population\n\n" + VIOLATIONS, "house.rule.sql:9: expected one SELECT as population, got nothing"),
        (WHOLE.replace("FROM epochs", "FROM epochs; SELECT 1"), "house.rule.sql:9: expected one SELECT as population, got SELECT, SELECT"),
        (WHOLE.replace("SELECT run, moment FROM epochs", "DROP TABLE x"), "house.rule.sql:9: expected one SELECT as population, got DROP"),
        (WHOLE.replace("SELECT run, moment FROM epochs", "SELEKT 1"), "house.rule.sql:9: population: Parser Error: syntax error"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_with_its_line(text: str, said: str) -> None:
    assert said in refusal(text)


def own(folder: Path, **texts: str) -> Path:
    """A directory with files of checks, by their names with dots."""
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def test_checks_of_a_directory_stand_behind_esper_s(tmp_path: Path) -> None:
    folder = own(tmp_path / "checks", **{"house.rule.sql": WHOLE, "notes.txt": "none"})
    assert [check.name for check in every_check(folder)] == [*(check.name for check in every_check()), "house.rule"]


def test_a_file_is_named_after_its_check(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"other\.sql:1: expected the name of the file as the check's, 'other', got 'house\.rule'"):
        every_check(own(tmp_path / "checks", **{"other.sql": WHOLE}))


def test_no_check_takes_a_name_of_esper_s(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected a name that no check of Esper has, got 'log\.chain'"):
        every_check(own(tmp_path / "checks", **{"log.chain.sql": WHOLE.replace("house.rule", "log.chain")}))


def test_a_directory_of_checks_must_be_there_and_hold_some(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected a directory of checks at .*, got nothing"):
        every_check(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"expected checks in .*, got none"):
        every_check(own(tmp_path / "empty"))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (own(tmp_path / "checks") / "house.rule.sql").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"cannot read the check .*house\.rule\.sql"):
        every_check(tmp_path / "checks")


def test_esper_s_own_checks_are_twenty_five() -> None:
    assert len(every_check()) == 25
