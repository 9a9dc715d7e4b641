"""`esper agent`: measures the machine that trains into its log."""

import argparse
import os
import signal
import threading
from importlib.util import find_spec

from esper.cli.arguments import Subcommands, add_log, factor, log_of
from esper.cli.output import Output
from esper.errors import SettingsError
from esper.observer.leader import LEAVE_AFTER_S
from esper.oona.directory import Directory
from esper.oona.lock import holder_of


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    parser = commands.add_parser("agent", help="measure this machine (processor, memory, disk, network, GPUs) into the log")
    parser.add_argument("--interval", type=factor, default=5.0, metavar="S", help="seconds between measurements (default: 5)")
    parser.add_argument("--background", action="store_true", help="let training go first, and leave when nothing is trained any more")
    add_log(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Measures until it is interrupted."""
    if find_spec("psutil") is None:
        raise SettingsError("esper agent needs psutil: pip install 'esper-training[nissa]' (or [train])")
    from esper.processes.agent import LOCK, Gpus, nvml, run_agent

    directory = Directory(log_of(arguments), create=True)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopped.set())
    if arguments.background:
        if holder_of(directory.path / LOCK) is not None:
            return 0  # Whoever measures already goes on as long as somebody trains.
        os.nice(10)
        run_agent(directory, arguments.interval, stopped, LEAVE_AFTER_S)
        return 0
    gpus = len(list(Gpus(nvml()).measure()))
    out.line(f"measuring this machine into {directory.path} every {arguments.interval:g} s; GPUs: {gpus or 'none that a driver knows'}")
    run_agent(directory, arguments.interval, stopped)
    return 0
