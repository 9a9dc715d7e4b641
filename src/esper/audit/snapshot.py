"""A snapshot of a projection, as everyone but its owner reads it: a file that is never written again."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb

from esper.errors import LogError
from esper.events.envelope import RunId

CONFINED: Mapping[str, str | int | bool] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "enable_external_access": False,
    "allow_community_extensions": False,
}
"""Settings of a connection that reaches nothing but its file."""


class State(NamedTuple):
    """The contents of a projection: rows by table, runs, why files of runs could not be read, and conflicts by run."""

    runs: int
    tables: dict[str, int]
    problems: dict[RunId, str]
    conflicts: dict[RunId, int]


@contextmanager
def opened(snapshot: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that reads the snapshot at that path, and can neither write nor open anything else.

    Raises LogError where a write-ahead log lies beside it: a snapshot has none, and DuckDB would replay one that was planted.
    """
    if (planted := next(wals_of(snapshot), None)) is not None:
        raise LogError(f"cannot trust {snapshot}: expected no write-ahead log beside it, got {planted}: remove both")
    with closing(duckdb.connect(os.fspath(snapshot), read_only=True, config=dict(CONFINED))) as connection:
        connection.execute("SET disabled_filesystems = 'LocalFileSystem'")
        connection.execute("SET lock_configuration = true")
        yield connection


def state_of(snapshot: Path) -> State:
    """The contents of the snapshot at that path."""
    with opened(snapshot) as connection:
        (runs,) = connection.execute("SELECT count(DISTINCT run) FROM positions").fetchall()[0]
        return State(
            int(runs),
            dict(connection.execute("SELECT name, rows FROM table_rows ORDER BY name").fetchall()),
            dict(connection.execute("SELECT run, any_value(problem) FROM positions WHERE problem IS NOT NULL GROUP BY run").fetchall()),
            dict(connection.execute("SELECT run, count(*) FROM conflicts GROUP BY run").fetchall()),
        )


def wals_of(path: Path) -> Iterator[Path]:
    """Write-ahead logs of the file. A checkpoint under way has parts of its own."""
    return (left for left in path.parent.glob(f"{path.name}.wal*") if left.is_file() or left.is_symlink())
