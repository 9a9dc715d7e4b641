"""The reason why a query gave no rows, as an error with words for whoever wrote it: what was expected, where, and what there is instead."""

import json
import re
import signal
from collections.abc import Mapping, Sequence

from esper.errors import DataError, EsperError, LimitError, RuleError
from esper.settings import nearest

_RAISED = "raise it with --limit {name}=NUMBER"
_LIMITS = {
    "time_s": "expected a query that ends within {most:g} s, this one was ended: ask for less, or ",
    "memory_mb": "memory limit reached: expected a query that takes at most {most} MiB: sort, group or join less, or ",
    "rows": "expected a query of at most {most:,} rows, this one has more: add a LIMIT or a WHERE, or ",
    "result_mb": "expected a query whose result has at most {most} MiB, this one has more: ask for fewer columns or rows, or ",
}
_CLASSES: Mapping[str, type[EsperError]] = {kind.__name__: kind for kind in (DataError, RuleError)}
_MEMORY = re.compile(rb"bad_alloc|MemoryError|Out of Memory|cannot allocate memory", re.IGNORECASE)
_MISSING = re.compile(
    r'Referenced column "(?P<column>[^"]+)" not found|Table "(?P<in_table>[^"]+)" does not have a column named "(?P<its_column>[^"]+)"'
    r'|Referenced table "(?P<table>[^"]+)" not found'
)
_DAMAGE = {"IO", "Serialization", "Fatal"}
_MOST_NAMES = 24


def too_much(limit: str, most: float) -> LimitError:
    """The error of a query that came to `limit`, a field of QueryLimits whose value is `most`."""
    return LimitError(_LIMITS[limit].format(most=most) + _RAISED.format(name=limit))


def refusal(code: int, report: bytes, sql: bytes, limits: Mapping[str, float], file: str) -> EsperError:
    """The error of a child process that ended with `code` and wrote `report`, when it was asked `sql`."""
    try:
        told = json.loads(report.rstrip().rpartition(b"\n")[2])
        kind, words = told["kind"], told["words"]
    except (ValueError, KeyError, TypeError):
        return _without_report(code, report, limits)
    if kind == "LimitError":
        limit = "memory_mb" if words == "memory" else str(words)
        return too_much(limit, limits[limit])
    if kind == "query" and words["error"]["exception_type"] in _DAMAGE:
        return DataError(f"{file}: {words['error']['exception_message']}")
    if kind == "query":
        return RuleError(_words(words["error"], words["columns"], words["named"], sql))
    return _CLASSES[kind](f"{file}: {words}" if kind == "DataError" else words)


def _without_report(code: int, report: bytes, limits: Mapping[str, float]) -> EsperError:
    if code == -signal.SIGALRM:
        return too_much("time_s", limits["time_s"])
    if code == -signal.SIGKILL or _MEMORY.search(report):
        return too_much("memory_mb", limits["memory_mb"])
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    said = report.decode(errors="replace").strip().splitlines()
    return RuleError(f"expected a query that DuckDB can run, it ended with {how}{': ' + said[-1] if said else ''}")


def _words(error: Mapping[str, str], columns: Mapping[str, Sequence[str]], named: Sequence[str], sql: bytes) -> str:
    message = error["exception_message"]
    position = str(error.get("position", ""))
    where = _place(sql, int(position)) if position.isdecimal() else ""
    if ("File system" in message and "disabled" in message) or error["exception_type"] == "Permission":
        return f"expected tables of this file, got what lies outside: a query cannot reach files or networks{where}"
    if message.startswith("Max expression depth"):
        return "expected a statement that is nested less deeply, and shorter chains of one operator: 1000 levels are the most"
    missing = _MISSING.search(message)
    if error.get("type") == "Table":
        return f"there is no table {error['name']}{_near(error['name'], sorted(columns))}; there are {_list(columns, most=100)}{where}"
    if missing is not None and (name := missing["column"] or missing["its_column"]):
        known = {table: columns[table] for table in named if table in columns} or dict(columns)
        there = "; ".join(f"{table} has {_list(known[table])}" for table in sorted(known)) if len(known) <= 3 else ""
        near = _near(name, list(dict.fromkeys(column for each in known.values() for column in each)))
        return f"there is no column {name}{near}{'; ' + there if there else ''}{where}"
    return f"{message.strip()}{where}"


def _near(name: str, known: Sequence[str]) -> str:
    """A hint at the `known` name that has `name` within itself, else at the one most like it."""
    return next((f", perhaps {one}" for one in known if name.lower() in one.lower()), "") or nearest(name, known)


def _list(names: Mapping[str, object] | Sequence[str], most: int = _MOST_NAMES) -> str:
    found = sorted(names) if isinstance(names, Mapping) else list(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _place(sql: bytes, position: int) -> str:
    """The line of `sql` with a mark under the byte at `position`, below a line that says which it is."""
    before = sql[: max(0, position)].decode(errors="replace")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    text = sql.decode().split("\n")[line - 1]
    return f" (line {line}, column {column})\n  {text}\n  {' ' * (column - 1)}^"
