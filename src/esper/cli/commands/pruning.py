"""`esper prune`: removes what a log may do without, and says what it would remove first."""

import argparse
import re
import time
from datetime import UTC, datetime, timedelta

from rich.filesize import decimal

from esper.cli.arguments import Subcommands, directory_of, new_command
from esper.cli.output import Output
from esper.cli.text import short_id, timestamp
from esper.errors import LogError, SettingsError
from esper.events.envelope import written_time
from esper.events.kinds.accountability import RunPruned
from esper.history.prunable_runs import OldRun, old_runs
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.removal import disk_size, old_kernels, remove_rest, remove_run
from esper.settings import person_or_none
from esper.words import plural

_AGE = re.compile(r"([1-9][0-9]{0,5})([dh])", re.ASCII)
_HOURS = {"h": 1, "d": 24}


def add(commands: Subcommands) -> None:
    """Adds the command."""
    words = "remove old runs and kernels; without --yes it only says what it would remove"
    parser = new_command(commands, "prune", run, words, json="one JSON object per run")
    parser.add_argument("--older-than", required=True, metavar="AGE", help="since a run's last record, like 90d or 12h")
    parser.add_argument("--keep-tag", action="append", default=[], metavar="TAG", help="runs with this tag stay; repeatable")
    parser.add_argument("--yes", action="store_true", help="remove it")
    parser.add_argument("--by", metavar="NAME", help="the person who asks, for the trail")


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Says what would be removed; with --yes removes it, each run after the fact in the trail."""
    age, by = _age(arguments.older_than), person_or_none("--by", arguments.by)
    directory = directory_of(arguments)
    now = datetime.now(UTC)
    if arguments.yes:
        remove_rest(directory)
    freed = 0
    for old in list(old_runs(directory, now - age, arguments.keep_tag, now)):
        done = "stays" if old.kept else "would be removed"
        if arguments.yes and not old.kept:
            _remove(directory, old, arguments, by)
            done = "removed"
        freed += 0 if old.kept else old.size_bytes
        _print(old, done, arguments, out)
    kernels = list(old_kernels(directory, time.time() - age.total_seconds()))
    freed += sum(map(disk_size, kernels))
    if arguments.yes:
        for path in kernels:
            path.unlink(missing_ok=True)
    if not arguments.json:
        what = f"{plural(len(kernels), 'kernel')} {'removed' if arguments.yes else 'would be removed, and made again when needed'}"
        out.line(what, f"{decimal(freed)} {'freed' if arguments.yes else 'would be freed: --yes removes it'}")
    return 0


def _remove(directory: Directory, old: OldRun, arguments: argparse.Namespace, by: str | None) -> None:
    """Removes one run, where nothing keeps it by now. Raises LogError."""
    now = datetime.now(UTC)
    if not any(one.run == old.run and one.kept is None for one in old_runs(directory, now, arguments.keep_tag, now, only=old.run)):
        raise LogError(f"run {old.run} is held or written since it was looked at: nothing of it was removed")
    append_to_trail(directory, [_fact(old, arguments.older_than, by)], lambda: datetime.now(UTC))
    remove_run(directory, old.run)


def _fact(old: OldRun, older_than: str, by: str | None) -> RunPruned:
    return RunPruned(
        about=old.run,
        task=old.task,
        standing=old.standing,
        ended=written_time(old.ended),
        records=old.records,
        size_bytes=old.size_bytes,
        why=f"older than {older_than}",
        by=by,
    )


def _print(old: OldRun, done: str, arguments: argparse.Namespace, out: Output) -> None:
    if arguments.json:
        out.json(
            {
                "run": old.run,
                "done": done,
                "kept": old.kept,
                **_fact(old, arguments.older_than, None).model_dump(exclude={"about", "why", "by"}),
            }
        )
    else:
        why = f": {old.kept}" if old.kept else ""
        name = short_id(old.run) if old.task else old.run
        out.line(
            f"{name}  {old.task or 'no training'}, {old.standing}, until {timestamp(old.ended)}, {decimal(old.size_bytes)}: {done}{why}"
        )


def _age(text: str) -> timedelta:
    found = _AGE.fullmatch(text)
    if found is None:
        raise SettingsError(f"--older-than: expected an age like 90d or 12h, got {text!r}")
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])
