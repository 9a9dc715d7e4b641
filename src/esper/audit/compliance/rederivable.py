"""The check `projection.rederivable`: its SQL is made from the description of the tables, as their own is.

Of each kind of event a few hundred records are derived again, evenly spread: those whose id has a hash that is divisible. A kind with fewer
records is derived again as a whole, which facts nearly always are.
"""

import hashlib
from functools import cache

from esper.audit.compliance.check_files import Check, Header
from esper.audit.tables import TABLES, Table, selection
from esper.events.fields import Event

_SAMPLE = 256
_HEADER = Header(
    name="projection.rederivable",
    version=1,
    title="The rows of every table are those that its records give when they are derived again.",
    proves="The tables that other checks ask say what the payloads in `events` say.",
    cannot_show="That `events` stands in the log (log.conflict). Of kinds with more than a few hundred records it asks about a sample.",
    clauses=("21 CFR 11.10(a)", "21 CFR 11.10(b)"),
)


@cache
def rederivable() -> Check:
    """The check."""
    kinds = ", ".join(sorted(f"'{kind.KIND}'" for table in TABLES for kind in table.kinds))
    population = f"""
SELECT e.* FROM events AS e JOIN (SELECT type, greatest(1, count(*) // {_SAMPLE}) AS every FROM events GROUP BY type) AS s USING (type)
WHERE e.problem IS NULL AND hash(e.id) % s.every = 0 AND e.type IN ({kinds})"""
    violations = "\nUNION ALL\n".join(_compared(table, kind) for table in TABLES for kind in table.kinds)
    digest = hashlib.sha256(f"{_HEADER.model_dump_json()}{population}\x1f{violations}".encode()).hexdigest()
    return Check(_HEADER, population, violations, digest, "projection.rederivable")


def _compared(table: Table, kind: type[Event]) -> str:
    """The records of `kind` whose rows in `table` are not those that they give when they are derived again."""
    key = "run, moment" if table.rows else "run, moment, id"
    asked = f"SELECT ({key}) FROM population WHERE type = '{kind.KIND}'"
    derived, stored = _digests(selection(table, kind, "population"), key), _digests(f'FROM "{table.name}" WHERE ({key}) IN ({asked})', key)
    sentence = f"'table {table.name}: expected ', coalesce(d.count, 0), ' rows as they are derived again, got ', coalesce(s.count, 0)"
    other = "CASE WHEN d.count = s.count THEN ', other ones' ELSE '' END"
    differ = "(d.count, d.digest) IS DISTINCT FROM (s.count, s.digest)"
    joined = f"({derived}) AS d FULL JOIN ({stored}) AS s USING ({key})"
    return f"SELECT run, moment, concat({sentence}, {other}) AS what FROM {joined} WHERE {differ}"


def _digests(rows: str, key: str) -> str:
    return f"SELECT {key}, count(*) AS count, sum(hash(t::VARCHAR)::HUGEINT) AS digest FROM ({rows}) AS t GROUP BY {key}"
