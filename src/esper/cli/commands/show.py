"""`esper show`: a run at a moment."""

import argparse

from esper.cli.arguments import Subcommands, add_json, add_run, count, history_of, log_option, onward
from esper.cli.drawing.report import report
from esper.cli.output import Output
from esper.folds.run import BlockedError, digest
from esper.history.view import Reading


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    parser = commands.add_parser("show", help="a run at a moment: seeds, lives, decisions, losses, checkpoints")
    add_run(parser)
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--at", type=count, metavar="MOMENT", help="as it stood at this moment")
    when.add_argument("--epoch", type=count, metavar="N", help="as it stood when this epoch was over")
    parser.add_argument("--all", action="store_true", help="housekeeping and decisions for nothing too")
    add_json(parser, "one JSON object")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Shows the run; one whose fold is blocked is shown up to there, and the error is raised afterwards."""
    with history_of(arguments) as history:
        reading = history.reading(moment=arguments.at, epoch=arguments.epoch)
        now = arguments.at is None and arguments.epoch is None
        interrupted = onward(history, arguments) if now else None
    if arguments.json:
        out.json(_as_json(reading))
    else:
        out.lines(report(reading, digest(reading.state), out.width, everything=arguments.all))
        tail = f"{reading.run[-6:]}{log_option(arguments)}"
        if interrupted is not None:
            out.line(f"\nno process writes this run now, and it has not ended: {interrupted}")
        out.lines((f"\nmore: esper replay {tail}", f"      esper log {tail}"))
    blocked: BlockedError | None = reading.blocked
    if blocked is not None:
        raise blocked
    return 0


def _as_json(reading: Reading) -> dict[str, object]:
    """The run as one object; field names are those of the events."""
    state, timeline, pulse = reading.state, reading.timeline, reading.pulse
    return {
        "run": reading.run,
        "status": state.status,
        "moment": state.moment,
        "epoch": state.epoch,
        "step": state.step,
        "incarnation": state.incarnation,
        "digest": digest(state),
        "records": pulse.records,
        "first_time": pulse.first_time,
        "last_time": pulse.last_time,
        "started": state.started,
        "end": state.end,
        "epochs": state.epochs,
        "seeds": [{**dict(slot.row), "last_command": slot.command} for slot in state.slots.values()],
        "lives": timeline.lives,
        "decisions": timeline.decisions,
        "counts": state.control.counts,
        "field_reports": state.field_reports,
        "checkpoints": state.checkpoints,
        "rollbacks": state.rollbacks,
        "dropped": state.dropped,
        "notes": timeline.notes,
        "irregularities": [row._asdict() for row in state.irregularities],
        "blocked": None if reading.blocked is None else str(reading.blocked),
    }
