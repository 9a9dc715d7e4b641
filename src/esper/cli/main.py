"""The `esper` command: parses the command line, calls the command, and returns an exit code.

0: done. 1: an error, written in a line or two on standard error. 2: the command line is not understood. 130: interrupted. Where the reader
of a pipe has gone, the command ends quietly with 0. Any other exception is a fault of Esper and keeps its traceback.
"""

import os
import sys
from collections.abc import Sequence

from esper.errors import EsperError

DONE, WRONG, INTERRUPTED = 0, 1, 130
_TRAINING = frozenset(("train", "demo", "resume"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (None: that of the process) and returns the exit code; one that is not understood exits with 2."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in _TRAINING and not {"-h", "--help"} & set(words) and sys.stderr.isatty():
        # Before anything is imported that takes time: whoever waits sees at once that it has begun.
        print("esper: loading torch", file=sys.stderr, flush=True)
    from esper.cli.output import Output
    from esper.cli.parsing import build_parser
    from esper.stderr import warn

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
