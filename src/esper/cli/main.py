"""The `esper` command: reads what was typed, calls the command, and turns what happens into an exit code.

0: done. 1: Esper says what is wrong, in a line or two on standard error. 2: what was typed is not understood. 130: interrupted. A reader
of a pipe that goes away ends the command quietly with 0. Anything else is a fault of Esper's own and keeps its traceback.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from esper.cli.commands import alerts, doctor, log, replay, runs, services, show, trainings
from esper.cli.output import Output, hush
from esper.errors import EsperError

DONE, WRONG, INTERRUPTED = 0, 1, 130
_COMMANDS = (trainings, runs, show, log, replay, services, alerts, doctor)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(
        prog="esper", description="Trains networks that grow while they train, and tells what happened from their log."
    )
    parser.add_argument("--version", action="version", version=f"esper {version('esper-training')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what was typed (None: the process's own arguments) and returns the exit code; what is not understood exits with 2."""
    arguments = build_parser().parse_args(argv)
    out = Output()
    try:
        code: int = arguments.command(arguments, out)
        out.flush()
    except BrokenPipeError:
        hush()
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except EsperError as error:
        print(f"esper: {error}", file=sys.stderr)
        return WRONG
    return code
