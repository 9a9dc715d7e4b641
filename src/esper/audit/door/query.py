"""Asking the door: a child process per query, its request in, its result or the reason of its failure out.

The child is `esper.audit.door.query_process`. Whatever happens in it, this side ends it at its limit, takes no more bytes than its limit
allows, and unpickles nothing. A write-ahead log beside the file is refused here, before the query and after it. In between the child has no
right to read one, where the kernel has Landlock (`confinement.landlock_version` is above 0).
"""

import json
import os
import selectors
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from esper.audit.door.answer import Answer
from esper.audit.door.refusals import refusal, too_much
from esper.errors import DataError, RuleError

LONGEST_SQL_BYTES = 1 << 20
_MB = 1 << 20
_GRACE_S = 0.5  # The child ends itself so long after its limit where this process does not.
_SLACK_BYTES = 1 << 16  # An empty result has a schema too.
_LONGEST_REPORT_BYTES = 1 << 22
_WAL_ENDINGS = (".wal", ".wal.checkpoint", ".wal.recovery")
_BOOT = (
    "import sys, json; sys.modules['numpy'] = None; sys.path[:] = json.loads(sys.stdin.buffer.readline());"
    " from esper.audit.door import query_process; query_process.main()"
)
"""numpy is not needed, and importing it takes a third of the start. The path is this process's, and read before anything is imported."""


class QueryLimits(BaseModel):
    """Limits of what a query may cost. One that costs more raises LimitError."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    time_s: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    """Seconds until its process is killed, from the start of the process on, which takes about a third of a second itself."""

    memory_mb: Annotated[int, Field(ge=64, le=1 << 20)] = 1024
    """MiB that its process may have for it, besides the hundred that it takes itself."""

    threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Threads that work on it."""

    rows: Annotated[int, Field(ge=1)] = 1_000_000
    """Rows of its result."""

    result_mb: Annotated[int, Field(ge=1, le=1 << 20)] = 256
    """MiB of its result."""


class _Ended(NamedTuple):
    code: int
    result: bytearray
    report: bytearray


def query(
    file: Path,
    sql: str,
    *,
    limits: QueryLimits = QueryLimits(),  # noqa: B008 - it is frozen.
    parameters: Mapping[str, JsonValue] | None = None,
    before: Sequence[str] = (),
) -> Answer:
    """All rows that the statement `sql` reads from the DuckDB file `file`, which is not changed; `parameters` are its `$name`s.

    `before` are statements of Esper's own, which are run first and may make temporary views.

    Blocks until the child process has ended; several threads may ask at once. Raises RuleError for a statement that does not only read, or
    that DuckDB does not take; LimitError, which is one, for a query that costs too much; DataError for a file that is none, that is being
    written, or beside which a write-ahead log lies. Never ask for a file that this process itself writes: POSIX takes a process's locks
    on a file away when any of its descriptors is closed.
    """
    began, encoded = time.monotonic(), _encoded(sql)
    descriptor = _opened(file)
    try:
        asked = {"sql": sql, "parameters": dict(parameters or {}), "before": list(before)}
        ended = _asked(descriptor, {**asked, **_bounds(descriptor, limits)}, limits, began)
    finally:
        os.close(descriptor)
    _refuse_write_ahead(file)
    if ended.code != 0:
        raise refusal(ended.code, bytes(ended.report), encoded, limits.model_dump(), os.fspath(file))
    return Answer(_table(ended.result, file), time.monotonic() - began)


def _bounds(descriptor: int, limits: QueryLimits) -> dict[str, object]:
    """The part of a request that says which file, whose child, and within which limits."""
    return {
        "file": descriptor,
        "rows": limits.rows,
        "threads": limits.threads,
        "memory_bytes": limits.memory_mb * _MB,
        "parent": os.getpid(),
        "deadline_s": limits.time_s + _GRACE_S,
    }


def _table(result: bytearray, file: Path) -> pa.Table:
    try:
        table = pa.ipc.open_stream(pa.py_buffer(result)).read_all()
        table.validate()
    except pa.ArrowException as error:
        raise DataError(f"expected the result of a query from {file}, got what is none: {error}") from error
    return table


def _encoded(sql: str) -> bytes:
    try:
        encoded = sql.encode()
    except UnicodeEncodeError as error:
        raise RuleError(f"expected SQL as text, got half of a character at {error.start}") from error
    if len(encoded) > LONGEST_SQL_BYTES:
        raise RuleError(f"expected SQL of at most {LONGEST_SQL_BYTES} bytes, got {len(encoded)}")
    return encoded


def _opened(file: Path) -> int:
    """A descriptor of `file`. Raises DataError where it is no regular file, or has a write-ahead log."""
    _refuse_write_ahead(file)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = "a symbolic link" if file.is_symlink() else error.strerror
        raise DataError(f"expected a DuckDB file at {file}, got: {why}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"expected a DuckDB file at {file}, got what is no regular file")
    return descriptor


def _refuse_write_ahead(file: Path) -> None:
    for ending in _WAL_ENDINGS:
        beside = file.with_name(file.name + ending)
        if os.path.lexists(beside):
            raise DataError(f"expected {file} alone, found a write-ahead log at {beside}: the file is being written, or was tampered with")


def _asked(descriptor: int, request: Mapping[str, object], limits: QueryLimits, began: float) -> _Ended:
    """The end of the child: its code, result and report. Raises LimitError where it took too long or wrote too much."""
    path = [os.fspath(Path(entry).absolute()) for entry in sys.path]
    try:
        written = json.dumps(request).encode()
    except (TypeError, ValueError, RecursionError) as error:
        types = "numbers, texts, true, false, null, lists and maps of them; a date is a text with $name::DATE"
        raise RuleError(f"expected parameters that JSON has, {types}; got one that it has not: {error}") from error
    with tempfile.TemporaryFile() as ahead:  # A pipe would have to be written while the child's are read.
        ahead.write(json.dumps(path).encode() + b"\n" + written)
        ahead.seek(0)
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT],
            stdin=ahead,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={},
            pass_fds=(descriptor,),
            start_new_session=True,  # Ctrl-C reaches it through this process alone.
        )
    with process:
        try:
            result, report = _read(process, limits, began + limits.time_s)
        finally:
            process.kill()
    return _Ended(process.returncode, result, report)


def _read(process: "subprocess.Popen[bytes]", limits: QueryLimits, deadline: float) -> tuple[bytearray, bytearray]:
    """Everything that the child writes to its standard output and standard error, to its end."""
    assert process.stdout is not None
    assert process.stderr is not None
    most = {process.stdout: limits.result_mb * _MB + _SLACK_BYTES, process.stderr: _LONGEST_REPORT_BYTES}
    found = {pipe: bytearray() for pipe in most}
    with selectors.DefaultSelector() as selector:
        for pipe in most:
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready or time.monotonic() > deadline:
                raise too_much("time_s", limits.time_s)
            for key, _ in ready:
                taken = os.read(key.fd, _MB)
                found[key.data] += taken
                if not taken:
                    selector.unregister(key.fileobj)
                elif len(found[key.data]) > most[key.data]:
                    raise too_much("result_mb", limits.result_mb)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        raise too_much("time_s", limits.time_s) from None
    return found[process.stdout], found[process.stderr]
