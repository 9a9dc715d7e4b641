"""Programs of others that some tests run against, as Debian packs them."""

import os
import shutil
from pathlib import Path

import pytest

_missing = pytest.StashKey[set[str]]()


def program(config: pytest.Config, name: str) -> Path:
    """Where the program is. Skips the test without it, and says so at the end; on CI that is a failure, or nobody would ever notice."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    if os.environ.get("CI"):
        pytest.fail(f"no {name}: `.ci/run` installs it")
    config.stash.setdefault(_missing, set()).add(name)
    pytest.skip(f"no {name}")


def report(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Shows what was not tested, whatever the verbosity: skips alone are easily overlooked."""
    nothing: set[str] = set()
    missing = config.stash.get(_missing, nothing)
    for name in sorted(missing):
        terminalreporter.section(f"NOT TESTED AGAINST {name.upper()}", red=True, bold=True)
        terminalreporter.line("on Debian: apt-get install prometheus prometheus-alertmanager git zsh fish")
