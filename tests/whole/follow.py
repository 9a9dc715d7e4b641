"""A reader in another process: follows a log directory while a run trains in it, folds, and prints the state's digest at every moment.

    python -m tests.whole.follow LOG

Prints `following` once it listens, then `<moment> <digest>` for each record, as it comes, and ends when the run is sealed.
"""

import sys
from pathlib import Path

from esper.folds.run_state import RunState, digest, step
from esper.oona.directory import Directory
from esper.oona.follower import Follower


def main(log: Path) -> None:
    """Follows the one run in `log` to its end."""
    state: RunState | None = None
    with Follower(Directory(log)) as follower:
        _say("following")
        while True:
            for page in follower.poll(1.0):
                if page.error is not None:
                    raise page.error
                for record in page.records:
                    state = step(RunState(record.run) if state is None else state, record)
                    _say(f"{record.moment} {digest(state)}")
                if page.ended:
                    return


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
