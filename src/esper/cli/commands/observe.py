"""`esper observe` and `esper rebuild`: derive aggregates, anomalies and alerts as a log grows, or make an observer's states again."""

import argparse
import os
import signal
import threading
from pathlib import Path

from rich.text import Text

from esper.cli.arguments import Subcommands, add_json, add_log, directory_of, log_of, whole_number
from esper.cli.output import Output
from esper.cli.text import short_id
from esper.observer.build import observe, rebuild
from esper.oona.directory import Directory


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    watch = commands.add_parser("observe", help="derive aggregates, anomalies and alerts as runs go on, and have alerts delivered")
    add_log(watch)
    watch.add_argument(
        "--rules", type=Path, metavar="FILE", help="alert rules and settings of watching (default: alerts.toml in the log's directory)"
    )
    watch.add_argument("--delivery", type=Path, metavar="FILE", help="whom alerts reach (default: delivery.toml in the log's directory)")
    watch.add_argument(
        "--from-start", action="store_true", help="begin with the first record of runs that have ended, not after their last"
    )
    watch.add_argument("--background", action="store_true", help="let training go first, and leave when nothing is trained any more")
    watch.add_argument("--parent", type=whole_number, metavar="PID", help="leave when process PID, which started this one, has ended")
    watch.set_defaults(command=_run_observe)
    again = commands.add_parser("rebuild", help="make an observer's states again from the log; what was derived stays")
    again.add_argument("run", metavar="RUN", nargs="*", help="runs (default: all that were observed)")
    add_log(again)
    add_json(again, "one JSON object per run")
    again.set_defaults(command=_run_rebuild)


def _run_observe(arguments: argparse.Namespace, out: Output) -> int:
    """Observes until it is interrupted."""
    directory = Directory(log_of(arguments), create=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopped.set())

    def began() -> None:
        if not arguments.background:
            out.line(Text(f"observing {directory.path}; Ctrl-C ends it", style="dim"))

    def stop() -> bool:
        return stopped.is_set() or (arguments.parent is not None and os.getppid() != arguments.parent)

    observe(
        directory,
        rules=arguments.rules,
        delivery=arguments.delivery,
        background=arguments.background,
        from_start=arguments.from_start,
        began=began,
        stop=stop,
    )
    return 0


def _run_rebuild(arguments: argparse.Namespace, out: Output) -> int:
    """Makes the states again. Returns 1 where one is not the state that was saved."""
    directory = directory_of(arguments)
    runs = tuple(directory.resolve(name) for name in arguments.run) or None
    differs, none = False, True
    for made in rebuild(directory, runs):
        differs, none = differs or made.same is False, False
        if arguments.json:
            out.json({"run": made.run, "records": made.records, "digest": made.digest, "same": made.same})
        else:
            word = {True: "same as saved", False: "differs from what was saved", None: "nothing was saved at that place"}[made.same]
            out.line(f"{short_id(made.run)}  {made.records:>9,} records  {made.digest[:16]}  {word}")
    if none and not arguments.json:
        out.line("nobody observed a run of this log yet")
    return 1 if differs else 0
