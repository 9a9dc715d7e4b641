"""Starts the processes of `child`, reads what they say, and ends them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
ROOT = Path(__file__).parents[2]


@contextmanager
def child(what: str, directory: Path, *, user: int | None = None) -> Iterator["subprocess.Popen[str]"]:
    """The process that does `what` to `directory`; killed with kill -9 at the end of the block."""
    command = [sys.executable, "-m", "tests.oona.child", what, str(directory), *([] if user is None else [str(user)])]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    """The next line that the process says; empty when it ended."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def open_to_others(path: Path) -> None:
    """Lets other users look into `path`, which is private as temporary folders are."""
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 0o077:
            folder.chmod(0o755)
