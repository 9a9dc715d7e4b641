"""`esper sign-off` and `esper hold`: what people answer for, in the trail of the log."""

import argparse
from datetime import UTC, date, datetime

from esper.cli.arguments import Subcommands, day, directory_of, new_command
from esper.cli.output import Output
from esper.cli.text import short_id
from esper.errors import RuleError, SettingsError
from esper.events.envelope import RunId
from esper.events.kinds.accountability import HoldReleased, RunHeld, RunSignedOff, TrailEvent
from esper.events.kinds.run import RunFinished
from esper.history.run_list import resolve_run
from esper.history.trail import end_of, holds_in_force
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.settings import person, said
from esper.words import plural


def add(commands: Subcommands) -> None:
    """Adds the commands."""
    written = "what was recorded as one JSON object"
    sign_off = new_command(commands, "sign-off", _run_sign_off, "accept the result of a run that has ended", run=True, json=written)
    sign_off.add_argument("--role", metavar="ROLE", required=True, help="the role in which the person accepts it")
    sign_off.add_argument("--note", metavar="TEXT", required=True, help="what is accepted, and on what grounds")
    hold = new_command(commands, "hold", _run_hold, "keep a run from being deleted, or release it", run=True, json=written)
    kind = hold.add_mutually_exclusive_group()
    kind.add_argument("--until", metavar="DATE", help="the last day of the hold in UTC, like 2036-12-31 (default: until it is released)")
    kind.add_argument("--release", action="store_true", help="release every hold of the run")
    hold.add_argument("--why", metavar="TEXT", required=True, help="the reason")
    for parser in (sign_off, hold):
        parser.add_argument("--by", metavar="NAME", required=True, help="the person who says so")


def _run_sign_off(arguments: argparse.Namespace, out: Output) -> int:
    """Records that a person accepts the result of a run."""
    by = person("--by", arguments.by)
    role, note = said("--role", arguments.role, "the role of a person"), said("--note", arguments.note, "a text")
    directory = directory_of(arguments)
    run = resolve_run(directory, arguments.run)
    end, event = end_of(directory, run)
    model = event.model_digest if isinstance(event, RunFinished) else None
    accepted = "which failed" if model is None else f"with model {model[:12]}"
    return _record(
        RunSignedOff(about=run, by=by, role=role, note=note, model_digest=model, up_to=end.moment),
        f"{by} ({role}) signed off run {short_id(run)}, {accepted}, as it ended at moment {end.moment}: {note}",
        directory,
        arguments,
        out,
    )


def _run_hold(arguments: argparse.Namespace, out: Output) -> int:
    """Records a hold of a run, or the release of its holds."""
    by, why = person("--by", arguments.by), said("--why", arguments.why, "a reason")
    today = datetime.now(UTC).date()
    until = None if arguments.until is None else _day("--until", arguments.until, today)
    directory = directory_of(arguments)
    run = resolve_run(directory, arguments.run)
    if arguments.release:
        released = plural(_held(directory, run, today), "hold")
        words = f"run {short_id(run)} is no longer held; {by} released {released}: {why}"
        return _record(HoldReleased(about=run, why=why, by=by), words, directory, arguments, out)
    lasting = "until it is released" if until is None else f"until the end of {until} (UTC)"
    words = f"run {short_id(run)} is held {lasting}, as {by} said: {why}"
    return _record(RunHeld(about=run, until=until, why=why, by=by), words, directory, arguments, out)


def _day(name: str, text: str, today: date) -> str:
    """The day that `text` names, `today` or later. Raises SettingsError."""
    if day(name, text) < today:
        raise SettingsError(f"{name}: expected today, {today} in UTC, or a later day, got {text}")
    return text


def _held(directory: Directory, run: RunId, today: date) -> int:
    """The number of holds of `run` that are in force. Raises RuleError where there is none."""
    holds = holds_in_force(directory, today).get(run, ())
    if not holds:
        raise RuleError(f"run {run}: expected a hold to release, found none that is in force")
    return len(holds)


def _record(event: TrailEvent, words: str, directory: Directory, arguments: argparse.Namespace, out: Output) -> int:
    append_to_trail(directory, [event], lambda: datetime.now(UTC))
    if arguments.json:
        out.json({"type": event.KIND, "data": event})
    else:
        out.line(" ".join(words.split()))  # A text may have several lines.
    return 0
