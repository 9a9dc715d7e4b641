"""`esper replay`: the run told again from its log."""

import argparse
import time
from collections.abc import Iterator

from rich.text import Text

from esper.cli.arguments import Subcommands, factor, history_of, new_command, whole_number
from esper.cli.live import Screen, transcript
from esper.cli.output import Output
from esper.events.kinds.epoch import EpochCompleted
from esper.history.replay import EpochDigest, Replay
from esper.history.run import History

# On a terminal without --speed, so that the run can be watched: about ten seconds for a run of eighty epochs.
_REDRAW_S = 0.05
_EPOCH_S = 0.12


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "the run told again from its log, through the folds"
    parser = new_command(commands, "replay", run, words, run=True, json="one JSON object per epoch with its digest")
    parser.add_argument(
        "--from", dest="first", type=whole_number, metavar="M", help="tell from this moment on; what came before is folded unseen"
    )
    parser.add_argument("--to", dest="last", type=whole_number, metavar="M", help="stop after this moment")
    parser.add_argument("--speed", type=factor, metavar="X", help="X times as fast as it happened (default: as fast as it can be followed)")
    parser.add_argument("--digest", action="store_true", help="the digest of the state when each epoch was over; line by line")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Replays the run: the panel on a terminal, line by line elsewhere and with --digest."""
    with history_of(arguments) as history:
        if arguments.json:
            for over in _digests(history, arguments):
                out.json(over)
        elif out.interactive and not arguments.digest:
            _watch(_replay(history, arguments, digests=False), out, paced=arguments.speed is None)
        else:
            replay = _replay(history, arguments, digests=arguments.digest)
            for frame in replay.frames():
                if frame.over is not None:
                    out.print(_digest_line(frame.over))
                out.print(*transcript(frame.record, frame.folded, out.width))
            out.print(_digest_line(replay.final()))
    return 0


def _replay(history: History, arguments: argparse.Namespace, *, digests: bool) -> Replay:
    return Replay(history, time.sleep, first=arguments.first, last=arguments.last, speed=arguments.speed, digests=digests)


def _digests(history: History, arguments: argparse.Namespace) -> Iterator[EpochDigest]:
    replay = _replay(history, arguments, digests=True)
    for frame in replay.frames():
        if frame.over is not None:
            yield frame.over
    yield replay.final()


def _digest_line(reached: EpochDigest) -> Text:
    so_far = "" if reached.over else f"\n      epoch {reached.epoch} was not over"
    return Text(f"{reached.epoch:>4}  @{reached.moment:<6} {reached.digest}{so_far}", style="dim")


def _watch(replay: Replay, out: Output, *, paced: bool) -> None:
    """Draws the panel over and over; `paced` waits a little at each epoch's end, else the replay's own speed is all."""
    screen = Screen(out, _REDRAW_S)
    with screen.live:
        for frame in replay.frames():
            completed = frame.record.type == EpochCompleted.KIND
            screen.show(frame.folded, at_once=completed)
            if completed and paced:
                time.sleep(_EPOCH_S)
        screen.show(replay.folded, at_once=True)
    out.line(_digest_line(replay.final()))
