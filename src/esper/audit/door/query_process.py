"""The child process behind the door: opens one file, gives up every other right, runs one query, and ends.

It reads a request, JSON, from standard input, and writes the result to standard output as an Arrow IPC stream. Where it fails it exits
with 1, and the last line of standard error says why, as JSON. The order of its steps is what makes it safe: DuckDB starts without threads,
then the kernel takes away every file but one; only threads that are started after that open and read it; then DuckDB gives up its file
system and its settings, and the process the right to open anything. Only then is the query looked at.
"""

import json
import os
import stat
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import duckdb
import pyarrow as pa

from esper.audit.door import confinement, statement
from esper.errors import DataError, EsperError, LimitError

CATALOG = "audit"
_ROWS_A_BATCH = 16_384
_MOST_DESCRIPTORS = 256
_OPENED: Mapping[str, str | int | bool] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
    "threads": 1,
    "async_threads": 0,
    "temp_directory": "",
    "home_directory": "/nowhere",
    "secret_directory": "/nowhere",
    "extension_directory": "/nowhere",
    "show_behavior": "table",
}

Request = dict[str, Any]  # Any: the parent, which wrote it, has checked it.


def main() -> NoReturn:
    """Answers the request at standard input, and ends the process at once: threads of DuckDB that still work are not waited for."""
    request = json.load(sys.stdin.buffer)
    confinement.end_with(request["parent"], request["deadline_s"])
    confinement.leave_folders()
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What a library prints must not get into the result.
    tables: list[str] = []
    connection = None
    try:
        connection = confined_connection(request)
        tables = statement.require_reading(connection, request["sql"])
        _write(connection, request, answer)
        answer.close()
        os._exit(0)
    except EsperError as error:
        _fail(type(error).__name__, str(error))
    except (MemoryError, duckdb.OutOfMemoryException, pa.ArrowMemoryError):
        _fail("LimitError", "memory")
    except duckdb.Error as error:
        if connection is None:
            _fail("DataError", _words(error)["exception_message"])
        _fail("query", _described(connection, request, error, tables))


def confined_connection(request: Request) -> duckdb.DuckDBPyConnection:
    """A connection to the file alone, in a process that can open nothing more."""
    descriptor, memory = request["file"], request["memory_bytes"]
    connection = duckdb.connect(":memory:", config=dict(_OPENED))
    with pa.ipc.new_stream(pa.BufferOutputStream(), pa.schema([])):
        connection.sql("SELECT 1").to_arrow_reader(1).read_all()  # Everything that is loaded only when it is used is loaded now.
    confinement.limit_memory(memory)
    confinement.keep_one_file(descriptor)
    connection.execute(f"SET memory_limit = '{memory * 7 // 8}B'; SET threads = {request['threads']}; SET TimeZone = 'UTC'")
    connection.execute(f"ATTACH '/dev/fd/{descriptor}' AS {CATALOG} (READ_ONLY); USE {CATALOG}")
    _check_what_is_open(descriptor)
    for before in request["before"]:
        connection.execute(before)
    connection.execute("SET enable_external_access = false; SET disabled_filesystems = 'LocalFileSystem'; SET errors_as_json = true")
    connection.execute("SET lock_configuration = true")
    confinement.open_nothing_more()
    return connection


def _check_what_is_open(descriptor: int) -> None:
    """Raises DataError where DuckDB has opened another file than that of `descriptor`: it goes by a path, and paths can be changed."""
    wanted = os.fstat(descriptor)
    for other in range(3, _MOST_DESCRIPTORS):
        try:
            found = os.fstat(other)
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode) and not os.path.samestat(found, wanted):
            raise DataError("expected the file to stay where it is while it is opened: it was replaced, or has a write-ahead log")


def _write(connection: duckdb.DuckDBPyConnection, request: Request, answer: Any) -> None:  # Any: a binary file.
    relation = connection.sql(request["sql"], params=request["parameters"] or None)
    assert relation is not None, "a statement that reads has a result"
    reader = relation.to_arrow_reader(_ROWS_A_BATCH)
    schema = _distinct(reader.schema)
    rows = 0
    with pa.ipc.new_stream(answer, schema) as writer:
        for batch in reader:
            rows += batch.num_rows
            if rows > request["rows"]:
                raise LimitError("rows")
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def _distinct(schema: pa.Schema) -> pa.Schema:
    """`schema` with a name of its own for each column: a, a_1, a_2."""
    fields: list[pa.Field] = []
    taken: set[str] = set()
    for field in schema:
        name, number = field.name, 0
        while name in taken:
            number += 1
            name = f"{field.name}_{number}"
        taken.add(name)
        fields.append(field.with_name(name))
    return pa.schema(fields)


def _described(connection: duckdb.DuckDBPyConnection, request: Request, error: duckdb.Error, tables: list[str]) -> dict[str, object]:
    """DuckDB's words for its error, with the columns of the tables that there are: `tables` are those in the query."""
    words = _words(error)
    if "position" not in words:
        again = _words_of_explained(connection, request)
        words = again if again is not None and again["exception_type"] == words["exception_type"] else words
    columns: dict[str, list[str]] = {}
    for table, _, column in connection.execute(_COLUMNS).fetchall():
        columns.setdefault(table, []).append(column)
    return {"error": words, "columns": columns, "named": tables}


_COLUMNS = "SELECT DISTINCT table_name, column_index, column_name FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
_EXPLAIN = "EXPLAIN "


def _words_of_explained(connection: duckdb.DuckDBPyConnection, request: Request) -> dict[str, str] | None:
    """The same error once more, with its position, which a relation's errors lack; None where the statement can be explained."""
    try:
        connection.execute(_EXPLAIN + request["sql"], request["parameters"] or None)
    except duckdb.Error as error:
        words = _words(error)
        if "position" in words:
            words["position"] = str(int(words["position"]) - len(_EXPLAIN))
        return words
    return None


def _words(error: duckdb.Error) -> dict[str, str]:
    text = str(error)
    try:
        words: dict[str, str] = json.loads(text[text.index("{") :])
        words["exception_message"]
    except (ValueError, KeyError, TypeError):
        return {"exception_type": type(error).__name__.removesuffix("Exception"), "exception_message": text}
    words["exception_type"] = words["exception_type"].replace(" ", "")
    return words


def _fail(kind: str, words: object) -> NoReturn:
    os.write(2, f"\n{json.dumps({'kind': kind, 'words': words})}\n".encode())
    os._exit(1)
