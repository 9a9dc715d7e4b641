"""`esper nissa`: serves metrics and the API over a log."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from esper.cli.arguments import Subcommands, add_log, log_of, whole_number
from esper.cli.output import Output
from esper.errors import SettingsError
from esper.oona.directory import Directory


def add(commands: Subcommands) -> None:
    """Says what can be typed."""
    parser = commands.add_parser("nissa", help="serve metrics and the JSON API over a log")
    parser.add_argument("--host", metavar="ADDRESS", help="the address to listen at (nissa.host; default 127.0.0.1)")
    parser.add_argument("--port", type=whole_number, metavar="N", help="the port to listen at (nissa.port; default 9090)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the bearer token (nissa.token_file)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file with a table [nissa]")
    add_log(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace, out: Output) -> int:
    """Serves until it is interrupted. Returns 1 where it could not go on."""
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client", "sse_starlette") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"esper nissa needs {', '.join(missing)}: pip install 'esper-training[nissa]'")
    from esper.nissa.settings import nissa_settings
    from esper.processes.serve import serve

    typed = {"host": arguments.host, "port": arguments.port, "token_file": arguments.token_file}
    settings = nissa_settings(arguments.config, {name: value for name, value in typed.items() if value is not None})
    directory = Directory(log_of(arguments), create=True)

    def announce(address: str) -> None:
        out.line(f"serving {directory.path} at {address}: metrics at /metrics, the API at /api/v1, its description at /api/v1/openapi.json")

    return serve(directory, settings, announce)
