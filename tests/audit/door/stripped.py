"""The child process without some of its layers: what the others hold alone.

    python -m tests.audit.door.stripped LAYER ... < REQUEST

takes away the layers named: `check` (the look at the statement), `settings` (what DuckDB is told), `kernel` (Landlock and limits of
resources). The request is JSON: the file, and a list of statements. Each is run in a forked process of its own; one that crashes or takes
too long takes no other along. Prints a JSON object per statement: {"rows": ...} or {"error": ...}.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from esper.audit.door import confinement, query_process, statement
from esper.errors import EsperError

_LONGEST_S = 8.0
_MEMORY_BYTES = 1 << 29
_ROWS = 200


def stripped(file: Path, statements: Sequence[str], *removed: str, together: int = 1) -> list[str]:
    """What each of the `statements` gives in such a child process; so many run `together` in one, as long as none ends it."""
    request = {"file": os.fspath(file), "together": together, "statements": list(statements)}
    command = [sys.executable, "-m", "tests.audit.door.stripped", *removed]
    lines = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(statements)
    return lines


def main() -> None:
    """Answers each statement of the request."""
    removed = set(sys.argv[1:])
    request = json.load(sys.stdin)
    if "kernel" in removed:
        for name in ("keep_one_file", "limit_memory", "open_nothing_more"):
            setattr(confinement, name, lambda *_: None)
    done = 0
    statements: Sequence[str] = request["statements"]
    while done < len(statements):
        part = statements[done : done + request["together"]]
        for line in _forked(request["file"], part, removed):
            sys.stdout.write(line + "\n")
            done += 1


def _forked(file: str, statements: Sequence[str], removed: set[str]) -> list[str]:
    """What the statements give, up to the first that ends its process, which counts as an error."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _answer(file, statements, removed, writing)
    os.close(writing)
    found, deadline = b"", time.monotonic() + _LONGEST_S
    while select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
        taken = os.read(reading, 1 << 20)
        if not taken:
            break
        found += taken
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(reading)
    lines = found.decode().splitlines()
    ended = found == b"" or found.endswith(b"\n")
    whole = lines if ended else lines[:-1]
    return whole if len(whole) == len(statements) else [*whole, json.dumps({"error": f"the process ended with {status}"})]


def _answer(file: str, statements: Sequence[str], removed: set[str], writing: int) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    confinement.leave_folders()
    if "settings" in removed:
        connection = duckdb.connect(":memory:", config={"threads": 1, "async_threads": 0})
        confinement.limit_memory(_MEMORY_BYTES)
        confinement.keep_one_file(descriptor)
        connection.execute(f"ATTACH '/dev/fd/{descriptor}' AS audit (READ_ONLY); USE audit")
        confinement.open_nothing_more()
    else:
        try:
            connection = query_process.confined_connection({"file": descriptor, "memory_bytes": _MEMORY_BYTES, "threads": 2, "before": []})
        except duckdb.Error as error:
            _tell(writing, {"error": str(error)})
            os._exit(1)
    for sql in statements:
        _tell(writing, _one(connection, sql, removed))
    os._exit(0)


def _tell(writing: int, answer: dict[str, Any]) -> None:  # Any: JSON.
    os.write(writing, json.dumps(answer).encode() + b"\n")


def _one(connection: duckdb.DuckDBPyConnection, sql: str, removed: set[str]) -> dict[str, Any]:  # Any: JSON.
    try:
        if "check" not in removed:
            statement.require_reading(connection, sql)
        connection.execute(sql)
        return {"rows": str(connection.fetchmany(_ROWS) if connection.description else [])}
    except (duckdb.Error, EsperError, MemoryError, ValueError, OverflowError, UnicodeError) as error:
        return {"error": f"{type(error).__name__}: {error}"[:2000]}


if __name__ == "__main__":
    main()
