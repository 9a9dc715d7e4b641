"""A process that the tests kill: it projects a log in small batches, makes the projection anew when it is done, and goes on."""

import sys
from pathlib import Path

from esper.audit import reading
from esper.audit.ownership import owned
from esper.oona.directory import Directory

reading._PAGE = 50
reading.MOST_RECORDS = 150


def main() -> None:
    """Projects until it is killed."""
    directory = Directory(Path(sys.argv[1]))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        with owned(directory) as projection:
            projection.refresh()
            projection.rebuild("to go on")
            projection.refresh()
            projection.checkpoint()


if __name__ == "__main__":
    main()
