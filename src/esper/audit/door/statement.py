"""The test that a text is one statement that reads: judged on the tree that DuckDB's own parser makes of it, before anything runs.

DuckDB takes a statement that begins with SELECT for a SELECT, whatever its common table expressions do: a COPY there writes a file. So the
tree is searched to its leaves, for everything that does not read and for functions that reach beyond the tables of the file. What is not
found here meets a database without a file system, and a process that can open nothing.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress

import duckdb

from esper.errors import RuleError

_READS = "SELECT, WITH, FROM, VALUES, TABLE, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_EXPLAIN = re.compile(r"\s*explain(?:\s+analyze)?\s(?=.)", re.IGNORECASE | re.DOTALL)
_TABLES = {
    "duckdb_columns", "duckdb_constraints", "duckdb_functions", "duckdb_indexes", "duckdb_keywords", "duckdb_schemas",
    "duckdb_sequences", "duckdb_tables", "duckdb_types", "duckdb_views", "generate_series", "histogram", "histogram_values",
    "icu_calendar_names", "json_each", "json_tree", "pg_timezone_names", "pragma_collations", "pragma_table_info", "pragma_version",
    "range", "repeat", "repeat_row", "summary", "test_all_types", "unnest",
}  # fmt: skip
"""Table functions, and views of the same names, that neither read a file nor say anything of this machine."""

_OUTSIDE = {
    "current_setting", "currval", "getenv", "getvariable", "in_search_path", "inet_client_addr", "inet_client_port",
    "inet_server_addr", "inet_server_port", "json_deserialize_sql", "json_execute_serialized_sql", "json_serialize_plan", "nextval",
    "parse_duckdb_log_message", "setval", "write_log",
}  # fmt: skip
"""Other functions that change something, say something of this machine, or run what the tree does not show."""


def require_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    """The names of the tables in `sql`, one statement that reads. Raises RuleError where it is not one, duckdb.Error for its syntax."""
    if "\0" in sql:
        raise RuleError("expected SQL as plain text, got one with a NUL character")
    kind, read = _kind(connection, sql), sql
    if kind == "EXPLAIN" and (explained := _EXPLAIN.match(sql)):
        read = sql[explained.end() :]
        with suppress(duckdb.ParserException):  # What follows are options.
            kind = _kind(connection, read)
    if kind != "SELECT":
        raise RuleError(f"expected a statement that only reads ({_READS}), got {_ASKED_OTHERWISE.get(kind, kind.replace('_', ' '))}")
    tables = []
    for node in _nodes(_tree(connection, read)):
        _check_node(node, connection)
        if node.get("type") == "BASE_TABLE":
            tables.append(str(node["table_name"]))
    return tables


_ASKED_OTHERWISE = {
    "MULTI": "a PIVOT that has to look for its columns first: name them, as in PIVOT t ON stage IN ('TRAINING', 'CULLED')",
    "EXPLAIN": "EXPLAIN with options or after a comment: write EXPLAIN or EXPLAIN ANALYZE, then the query",
}


def _kind(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise RuleError(f"expected one statement, got {len(statements) or 'nothing but white space and comments'}")
    try:
        return str(statements[0].type.name)
    except ValueError:  # The Python module knows fewer kinds than the parser.
        return "another one"


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> object:
    (text,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0]
    try:
        tree = json.loads(text)
    except RecursionError:
        raise RuleError("expected a statement that is nested less deeply") from None
    if tree["error"]:
        raise RuleError(f"expected a statement that can be looked through before it runs: {tree['error_message']}")
    found: object = tree["statements"]
    return found


def _nodes(tree: object) -> Iterator[dict[str, object]]:
    """Every object of the tree."""
    ahead = [tree]
    while ahead:
        node = ahead.pop()
        if isinstance(node, dict):
            yield node
            ahead.extend(node.values())
        elif isinstance(node, list):
            ahead.extend(node)


_IS_MACRO = """
SELECT 1 FROM duckdb_functions() WHERE NOT internal AND function_type = 'table_macro' AND lower(function_name) = lower(?) LIMIT 1
"""


def _check_node(node: dict[str, object], connection: duckdb.DuckDBPyConnection) -> None:
    kind, function = str(node.get("type", "")), node.get("function")
    if kind.endswith("_NODE") and kind not in _READING_NODES:
        verb = kind.removesuffix("_NODE").removesuffix("_QUERY")
        raise RuleError(f"expected a statement that only reads, got one with {verb} inside")
    if kind == "TABLE_FUNCTION" and isinstance(function, dict):
        name = str(function["function_name"])
        if name.lower() not in _TABLES and not connection.execute(_IS_MACRO, [name]).fetchall():
            raise RuleError(f"expected tables of this file, got {name}(): a query cannot reach beyond them")
    if kind == "BASE_TABLE":
        name = str(node["table_name"])
        if name.lower().startswith(("duckdb_", "pragma_")) and name.lower() not in _TABLES:
            raise RuleError(f"expected tables of this file, got {name}: a query cannot reach beyond them")
    if kind == "FUNCTION" and str(node["function_name"]).lower() in _OUTSIDE:
        raise RuleError(f"expected functions of values, got {node['function_name']}(): a query cannot reach beyond the tables of this file")
