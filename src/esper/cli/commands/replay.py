"""`esper replay`: a run shown again from its log."""

import argparse
import time

from rich.text import Text

from esper.cli.arguments import Subcommands, factor, history_of, new_command, whole_number
from esper.cli.live import Screen, transcript
from esper.cli.output import Output
from esper.events.kinds.epoch import EpochCompleted
from esper.history.playback import EpochDigest, Replay

# On a terminal without --speed, so that the run can be watched: about ten seconds for a run of eighty epochs.
_REDRAW_S = 0.05
_EPOCH_S = 0.12


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "show a run again from its log, through the folds"
    parser = new_command(commands, "replay", run, words, run=True, json="one JSON object per epoch with its digest", kafka=True)
    parser.add_argument(
        "--from", dest="first", type=whole_number, metavar="M", help="show records from this moment on; earlier ones are folded only"
    )
    parser.add_argument("--to", dest="last", type=whole_number, metavar="M", help="stop after this moment")
    parser.add_argument("--speed", type=factor, metavar="X", help="X times as fast as it happened (default: as fast as it can be followed)")
    parser.add_argument("--digest", action="store_true", help="line by line, with the digest of the state at each epoch's end")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Replays the run: in the panel on a terminal, line by line elsewhere and with --digest."""
    digests = arguments.digest or arguments.json

    def write(reached: EpochDigest) -> None:
        if arguments.json:
            out.json(reached)
        else:
            so_far = "" if reached.over else f"\n      epoch {reached.epoch} was not over"
            out.print(Text(f"{reached.epoch:>4}  @{reached.moment:<6} {reached.digest}{so_far}", style="dim"))

    _, history = history_of(arguments)
    with history:
        replay = Replay(history, time.sleep, first=arguments.first, last=arguments.last, speed=arguments.speed, digests=digests)
        if out.interactive and not digests:
            _watch(replay, out, paced=arguments.speed is None)
        else:
            for frame in replay.frames():
                if frame.over is not None:
                    write(frame.over)
                if not arguments.json:
                    out.print(*transcript(frame.record, frame.folded, out.width))
        write(replay.final())
    return 0


def _watch(replay: Replay, out: Output, *, paced: bool) -> None:
    """Draws the panel again and again; `paced` waits a little at each epoch's end, else the pace is that of the replay."""
    screen = Screen(out, _REDRAW_S)
    with screen.live:
        for frame in replay.frames():
            completed = frame.record.type == EpochCompleted.KIND
            screen.show(frame.folded, at_once=completed)
            if completed and paced:
                time.sleep(_EPOCH_S)
        screen.show(replay.folded, at_once=True)
