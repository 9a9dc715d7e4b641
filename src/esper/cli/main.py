"""The `esper` command: parses the command line, calls the command, and returns an exit code.

0: done. 1: an error, written in a line or two on standard error. 2: the command line is not understood. 130: interrupted. Where the reader
of a pipe has gone, the command ends quietly with 0. Any other exception is a fault of Esper and keeps its traceback.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from esper.cli.commands import (
    alerts,
    answering,
    audit_tables,
    checking,
    distributed,
    doctor,
    log,
    querying,
    replay,
    reporting,
    runs,
    services,
    show,
    trainings,
)
from esper.cli.output import Output, warn
from esper.errors import EsperError

DONE, WRONG, INTERRUPTED = 0, 1, 130
_COMMANDS = (
    trainings,
    runs,
    show,
    log,
    replay,
    services,
    alerts,
    doctor,
    querying,
    audit_tables,
    checking,
    reporting,
    answering,
    distributed,
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="esper", description="Trains networks that grow while they train, and shows their runs from a log."
    )
    parser.add_argument("--version", action="version", version=f"esper {version('esper-training')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (None: that of the process) and returns the exit code; one that is not understood exits with 2."""
    arguments = build_parser().parse_args(argv)
    out = Output()
    try:
        code: int = arguments.command(arguments, out)
        out.flush()
    except BrokenPipeError:
        # Python's own flush at exit must not fail for the reader that has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except EsperError as error:
        warn(error)
        return WRONG
    return code
