"""The check `projection.rederivable`: its SQL is made from the description of the tables, as their own is.

Of each kind of event a few hundred records are derived again, those whose id has a hash that is divisible. A kind with fewer records is
derived again as a whole, which facts nearly always are. Telemetry is taken from a few stretches of the log, evenly spread: payloads are
compressed two thousand at a time.
"""

import hashlib
from functools import cache

from esper.audit.compliance.check_files import Check, Header
from esper.audit.table_sql import columns_of, selection
from esper.audit.tables import TABLES, Table
from esper.events.fields import Event

_SAMPLE = 256
_STRETCH, _STRETCHES = 4096, 4
_SCALARS = {"BOOLEAN", "BIGINT", "DOUBLE", "TIMESTAMP", "VARCHAR"}
_HEADER = Header(
    name="projection.rederivable",
    version=2,
    title="The rows of every table are those that its records give when they are derived again.",
    proves="The tables that other checks ask say what the payloads in `events` say.",
    cannot_show="That `events` stands in the log (log.conflict). Of kinds with more than a few hundred records it asks about a sample.",
    clauses=("21 CFR 11.10(a)", "21 CFR 11.10(b)"),
)


@cache
def rederivable() -> Check:
    """The check."""
    every_kind = dict.fromkeys(kind for table in TABLES for kind in table.kinds)
    kinds = ", ".join(sorted(f"'{kind.KIND}'" for kind in every_kind))
    # Joined over one column: then DuckDB opens the payloads of records that are asked about, and no others.
    population = f"""
WITH sampled AS (
    SELECT type, fact IS NULL AS telemetry, greatest(1, count(*) // {_SAMPLE}) AS every,
        greatest(1, least(every, max(moment) // {_STRETCH} // {_STRETCHES})) AS apart
    FROM events GROUP BY ALL
),
chosen AS (
    SELECT e."row", list((e.run, e.file)) AS files
    FROM events AS e JOIN sampled AS s ON e.type = s.type AND (e.fact IS NULL) = s.telemetry
    WHERE e.problem IS NULL AND e.type IN ({kinds}) AND CASE WHEN telemetry
        THEN (e.moment // {_STRETCH}) % apart = hash(e.run) % apart AND hash(e.id) % greatest(1, every // apart) = 0
        ELSE hash(e.id) % every = 0 END
    GROUP BY e."row"
)
SELECT e.* FROM events AS e JOIN chosen USING ("row") WHERE list_contains(files, (e.run, e.file))"""
    by_kind = {kind.KIND: "\nUNION ALL\n".join(_compared(table, kind) for table in TABLES if kind in table.kinds) for kind in every_kind}
    none = "SELECT run, moment, '' AS what FROM population WHERE false"
    digest = hashlib.sha256("\x1f".join((_HEADER.model_dump_json(), population, *by_kind.values())).encode()).hexdigest()
    return Check(_HEADER, population, none, digest, "projection.rederivable", by_kind)


def _compared(table: Table, kind: type[Event]) -> str:
    """The records of `kind` whose rows in `table` are not those that they give when they are derived again."""
    key = "run, moment" if table.rows else "run, moment, id"
    asked = f"(SELECT moment, list(({key})) AS keys FROM population WHERE type = '{kind.KIND}' GROUP BY moment)"
    derived = _digests(table, selection(table, kind, "population"), key)
    stored = _digests(table, f'SELECT t.* FROM "{table.name}" AS t JOIN {asked} USING (moment) WHERE list_contains(keys, ({key}))', key)
    sentence = f"'table {table.name}: expected ', coalesce(d.count, 0), ' rows as they are derived again, got ', coalesce(s.count, 0)"
    other = "CASE WHEN d.count = s.count THEN ', other ones' ELSE '' END"
    differ = "(d.count, d.digest) IS DISTINCT FROM (s.count, s.digest)"
    joined = f"({derived}) AS d FULL JOIN ({stored}) AS s USING ({key})"
    return f"SELECT run, moment, concat({sentence}, {other}) AS what FROM {joined} WHERE {differ}"


def _digests(table: Table, rows: str, key: str) -> str:
    # Nested values as text, which takes longer: where they were just derived, a map or a list of NULLs alone has no type of its own.
    values = ", ".join(f'"{name}"' if kind in _SCALARS else f'"{name}"::VARCHAR' for name, kind, *_ in columns_of(table))
    return f"SELECT {key}, count(*) AS count, sum(hash({values})::HUGEINT) AS digest FROM ({rows}) AS t GROUP BY {key}"
