"""docs/shell.md names everything that can be typed, and nothing that cannot."""

import argparse
import re
from pathlib import Path

import pytest

from esper.cli.parsing import build_parser

PAGE = (Path(__file__).parents[2] / "docs" / "shell.md").read_text()


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every subcommand's parser by its name."""
    [subparsers] = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(subparsers.choices)


def section(command: str) -> str:
    """What the page says under `### esper COMMAND`."""
    _, _, after = PAGE.partition(f"### `esper {command}")
    return re.split(r"^##", after, maxsplit=1, flags=re.MULTILINE)[0]


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Every long option of a command, and of its own commands, but --help."""
    inner = [part for action in parser._actions if isinstance(action, argparse._SubParsersAction) for part in action.choices.values()]
    own = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    return own.union(*map(options, inner)) - {"--help"}


@pytest.mark.parametrize("command", commands())
def test_every_command_has_its_section_with_every_option(command: str) -> None:
    written = section(command)
    assert written, f"no section for {command}"
    missing = {option for option in options(commands()[command]) if option not in written}
    assert missing == set()


@pytest.mark.parametrize("command", commands())
def test_no_option_is_documented_that_cannot_be_typed(command: str) -> None:
    # What a code span calls by another command's name is that command's.
    written = re.sub(r"`esper [^`]*`|`(?:show|log|train) [^`]*`", "", section(command))
    assert set(re.findall(r"--[a-z][a-z-]*", written)) <= options(commands()[command])


def test_every_exit_code_is_documented() -> None:
    for code in (0, 1, 2, 130):
        assert f"| {code} |" in PAGE


def test_every_section_is_a_command() -> None:
    assert set(re.findall(r"^### `esper ([a-z-]+)", PAGE, flags=re.MULTILINE)) == set(commands())
