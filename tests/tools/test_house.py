"""Figures of a tree that is small enough to count by hand."""

import json
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from tests.programs import program
from tools.house import House, main, measure, read_checkout

RUN = "def run(times: int) -> int:\n    return times\n"
FILES = {
    "esper/__init__.py": "",
    "esper/main.py": "def main() -> None:\n    pass\n",
    "esper/errors.py": '"""What can go wrong."""\n\n# Why.\nclass Bad(OSError):\n    """One error."""\n\n    n: int\n    """Why."""\n',
    "esper/cli/__init__.py": "",
    "esper/cli/errors.py": "from typing import TypeVar\n\nT = TypeVar('T')\nLIMIT: int = 3\nclass Bad(Exception): ...\n" + RUN,
    "esper/cli/train.py": "from typing import TypeVar\n\nT = TypeVar('T')\nLIMIT, _HIDDEN = [n for n in (4, 5)]\n" + RUN,
    "esper/train/__init__.py": '"""However it is done, one epoch follows another."""\n',
    "esper/train/loop.py": "async def long():\n" + "    x = 1\n" * 30 + "\ndef short():\n" + "    x = 1\n" * 29,
    "esper/train/rules.toml": "a = 1\nb = 2\n",
}


@pytest.fixture
def house() -> House:
    return measure({PurePosixPath("src", name): text for name, text in FILES.items()})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_lines_of_python_and_of_data_are_counted_apart(house: House) -> None:
    assert (house.lines, house.data_lines) == (2 + 8 + 7 + 6 + 1 + 62, 2)


def test_blank_lines_comments_and_bare_strings_are_not_code(house: House) -> None:
    assert house.code_lines == 2 + 2 + 6 + 5 + 61


def test_package_is_as_large_as_its_modules_without_its_own_file(house: House) -> None:
    assert (house.packages, house.largest_package, house.modules) == ({"esper": 2, "esper.cli": 2, "esper.train": 1}, 2, 5)


def test_public_names_are_what_modules_define(house: House) -> None:
    assert (house.classes, house.public_names) == (2, 1 + 1 + 3 + 2 + 2)


def test_name_of_two_meanings_is_double_and_a_shape_that_a_package_shares_is_not(house: House) -> None:
    assert house.double_names == {"Bad": ["esper.cli.errors", "esper.errors"], "LIMIT": ["esper.cli.errors", "esper.cli.train"]}


def test_function_of_another_signature_or_package_is_another_meaning() -> None:
    files = {"a/x.py": RUN, "b/x.py": RUN, "c/x.py": "def go(a): ...", "c/y.py": "def go(b): ..."}
    assert list(measure({PurePosixPath("src/esper", name): text for name, text in files.items()}).double_names) == ["go", "run"]


def test_file_name_in_two_packages_and_package_named_like_a_module_are_double(house: House) -> None:
    assert house.double_modules == {"errors": ["esper.cli.errors", "esper.errors"]}
    assert house.double_packages == {"train": ["esper.cli.train", "esper.train"]}


def test_function_is_long_from_its_31st_line_on(house: House) -> None:
    assert house.functions_over_30 == {"esper.train.loop:1 long": 31}
    assert (house.functions, house.functions_over_60, house.share_at_most_30) == (5, {}, 0.8)


def test_docstring_is_loose_by_its_first_word(house: House) -> None:
    assert house.loose_docstrings == ["esper.errors:1 module", "esper.errors:4 Bad"]


def test_json_holds_figures_and_lists(checkout: Path, house: House, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", str(checkout)])
    assert json.loads(capsys.readouterr().out) == [{"figures": house.figures(), "lists": house.lists()}]


def test_lists_stand_under_the_table_when_they_are_asked_for(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(checkout)])
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 16
    main(["--lists", str(checkout)])
    assert capsys.readouterr().out.startswith(table + "\npackages:\n  esper ")


def test_revision_stands_beside_the_work_tree(checkout: Path, capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config) -> None:
    program(pytestconfig, "git")
    git = ("git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run((*git, "init", "--quiet"), check=True)
    subprocess.run((*git, "add", "."), check=True)
    subprocess.run((*git, "commit", "--quiet", "--message", "all"), check=True)
    (checkout / "src" / "esper" / "train" / "loop.py").unlink()
    main(["--before", "HEAD", str(checkout)])
    assert "modules                      5         4    0.80" in capsys.readouterr().out.splitlines()


def test_directory_without_source_is_refused(tmp_path: Path) -> None:
    assert not read_checkout(tmp_path)
    with pytest.raises(SystemExit):
        main([str(tmp_path)])


def test_packages_and_modules_can_be_left_out(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--without", "cli,train/loop.py", str(checkout)])
    assert "modules                      2" in capsys.readouterr().out.splitlines()
    with pytest.raises(SystemExit):
        main(["--without", "cli,trains", str(checkout)])
