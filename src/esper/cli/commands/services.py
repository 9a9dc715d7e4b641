"""`esper observe`, `rebuild`, `nissa` and `agent`: the processes that run beside trainings until they are interrupted."""

import argparse
import os
import signal
import threading
from pathlib import Path

from rich.text import Text

from esper.cli.arguments import Subcommands, directory_of, factor, log_name, mirror_of, new_command, settings_folder, whole_number
from esper.cli.output import Output
from esper.cli.text import short_id
from esper.extras import require_installed
from esper.history.run_list import resolve_run
from esper.oona.lock import holder_of

_BACKGROUND = "let training go first, and leave when no training is left"
_POLL_S = 0.25
_REBUILT = {True: "same as saved", False: "differs from what was saved", None: "nothing was saved at that place"}


def add(commands: Subcommands) -> None:
    """Adds the commands."""
    parser = new_command(
        commands, "observe", _run_observe, "derive aggregates, anomalies and alerts as runs go on, and have alerts delivered"
    )
    parser.add_argument(
        "--rules", type=Path, metavar="FILE", help="alert rules and monitoring settings (default: alerts.toml in the log's directory)"
    )
    parser.add_argument("--delivery", type=Path, metavar="FILE", help="handlers (default: delivery.toml in the log's directory)")
    parser.add_argument("--from-start", action="store_true", help="begin with the first record of runs that have ended")
    parser.add_argument("--background", action="store_true", help=_BACKGROUND)
    add_parent(parser)
    words = "fold an observer's states again from the log; derived records stay"
    parser = new_command(commands, "rebuild", _run_rebuild, words, json="one JSON object per run")
    parser.add_argument("run", metavar="RUN", nargs="*", help="runs (default: all that were observed)")
    parser = new_command(commands, "nissa", _run_nissa, "serve metrics and the JSON API over a log", kafka=True)
    parser.add_argument("--host", metavar="ADDRESS", help="the address to listen at (nissa.host; default 127.0.0.1)")
    parser.add_argument("--port", type=whole_number, metavar="N", help="the port to listen at (nissa.port; default 9090)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the bearer token (nissa.token_file)")
    parser.add_argument("--open", action="store_true", default=None, help="ask for no token, of no account of this machine (nissa.open)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with a table [nissa]")
    parser = new_command(commands, "agent", _run_agent, "measure this machine (processor, memory, disk, network, GPUs) into the log")
    parser.add_argument("--interval", type=factor, default=5.0, metavar="S", help="seconds between measurements (default: 5)")
    parser.add_argument("--background", action="store_true", help=_BACKGROUND)


def add_parent(parser: argparse.ArgumentParser) -> None:
    """Adds `--parent`, which `ChildProcess` gives; its value belongs to `stopped_by_signals`."""
    parser.add_argument("--parent", type=whole_number, metavar="PID", help="leave when process PID, which started this one, has ended")


def stopped_by_signals(parent: int | None = None) -> threading.Event:
    """An event that SIGINT and SIGTERM set, and the end of `parent`, which started this process."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopped.set())

    def wait() -> None:
        while not stopped.wait(_POLL_S):
            if os.getppid() != parent:
                stopped.set()

    if parent is not None:
        threading.Thread(target=wait, name="esper-parent", daemon=True).start()
    return stopped


def _run_observe(arguments: argparse.Namespace, out: Output) -> int:
    """Observes until it is interrupted."""
    from esper.observer.build import observe

    directory = directory_of(arguments, create=True)
    stopped = stopped_by_signals(arguments.parent)

    def began() -> None:
        if not arguments.background:
            out.line(Text(f"observing {directory.path}; Ctrl-C ends it", style="dim"))

    observe(
        directory,
        rules=arguments.rules,
        delivery=arguments.delivery,
        background=arguments.background,
        from_start=arguments.from_start,
        began=began,
        stop=stopped.is_set,
    )
    return 0


def _run_rebuild(arguments: argparse.Namespace, out: Output) -> int:
    """Makes the states again. Returns 1 where one is not the state that was saved."""
    from esper.observer.build import rebuild

    directory = directory_of(arguments)
    runs = tuple(resolve_run(directory, name) for name in arguments.run) or None
    rebuilt = out.rows(
        rebuild(directory, runs),
        lambda made: out.line(f"{short_id(made.run)}  {made.records:>9,} records  {made.digest[:16]}  {_REBUILT[made.same]}"),
        json=arguments.json,
        form=lambda made: {"run": made.run, "records": made.records, "digest": made.digest, "same": made.same},
        none="nobody observed a run of this log yet",
    )
    return 1 if any(made.same is False for made in rebuilt) else 0


def _run_nissa(arguments: argparse.Namespace, out: Output) -> int:
    """Serves until it is interrupted. Returns 1 where it could not go on."""
    require_installed("esper nissa", "nissa", "fastapi", "uvicorn", "prometheus_client", "sse_starlette")
    from esper.nissa.service_settings import TOKEN_FILE, TOKEN_VARIABLE, nissa_settings
    from esper.processes.serve import run_service

    typed = {"host": arguments.host, "port": arguments.port, "token_file": arguments.token_file, "open": arguments.open}
    settings = nissa_settings(arguments.config, {name: value for name, value in typed.items() if value is not None})
    mirror, kafka = mirror_of(arguments), None
    if mirror is None:
        directory = directory_of(arguments, create=True)
    else:
        from esper.observer.delivery.delivery_file import DELIVERY_TOML
        from esper.processes.kafka_service import KafkaLog

        directory, kafka = mirror[0], KafkaLog(log_name(arguments), settings_folder(arguments, DELIVERY_TOML))
    name = directory.path if kafka is None else f"{kafka.address} from {directory.path}"

    def announce(address: str) -> None:
        out.line(f"serving {name} at {address}: metrics at /metrics, the API at /api/v1, its description at /api/v1/openapi.json")
        if settings.token_file is None and not os.environ.get(TOKEN_VARIABLE) and not settings.open:
            out.line(f"its token: {directory.path / TOKEN_FILE}, as a header, or as a browser's password; --open does without")

    return run_service(directory, settings, announce, kafka)


def _run_agent(arguments: argparse.Namespace, out: Output) -> int:
    """Measures until it is interrupted."""
    require_installed("esper agent", "nissa", "psutil")
    from esper.observer.leader import LEAVE_AFTER_S
    from esper.processes.resource_agent import AGENT_LOCK, Gpus, nvml, run_agent

    directory = directory_of(arguments, create=True)
    stopped = stopped_by_signals()
    if arguments.background:
        if holder_of(directory.path / AGENT_LOCK) is None:  # An agent that runs already stays as long as a training does.
            os.nice(10)
            run_agent(directory, arguments.interval, stopped, LEAVE_AFTER_S)
        return 0
    gpus = len(list(Gpus(nvml()).measure()))
    out.line(f"measuring this machine into {directory.path} every {arguments.interval:g} s; GPUs: {gpus or 'none that a driver knows'}")
    run_agent(directory, arguments.interval, stopped)
    return 0
