"""The tables of a projection as a folder of Parquet files that any other engine can query: a file a table, a manifest, and how to ask.

A file a table, and no folder a run: of a thousand runs one is found in 4 ms by the row groups of one file, in 24 ms by folders named
after runs, which also take `run` out of the files. No statistics of DOUBLE columns are written: they pass over NaN, which DuckDB takes to
be above every number, so that it would skip rows that it is asked for.

A folder is replaced whole or not at all: everything is written beside it and durable before the two change names. Who has a file of the
older publication open reads it to its end.
"""

import ctypes
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from io import BufferedRandom
from pathlib import Path
from typing import Literal, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from esper.audit.projection import AUDIT_FILE, Projection
from esper.audit.table_sql import described
from esper.audit.tables import Column
from esper.durable import sync_folder, write_durably
from esper.errors import LogError
from esper.events.envelope import RunId
from esper.oona.directory import Directory
from esper.oona.lock import Lock

MANIFEST, README = "manifest.json", "README.md"
# What Parquet has no type for, as Arrow has it. DuckDB's own writer would make a DOUBLE of a HUGEINT, which holds 53 of its bits.
_PARQUET = {"HUGEINT": "DECIMAL(38,0)", "JSON": "VARCHAR"}
_WITH_STATISTICS = ("VARCHAR", "BIGINT", "BOOLEAN", "TIMESTAMP", "BLOB", "DECIMAL(38,0)")
# Of a row group, whichever is reached first: the rows are DuckDB's own, the bytes are what a table takes of memory.
_MOST_ROWS, _MOST_BYTES = 122_880, 64 << 20
_VECTOR = 2048
_FLAT = ("VARCHAR", "BIGINT", "BOOLEAN", "TIMESTAMP", "DOUBLE")
Form = Literal["parquet", "csv"]
"""The kinds of file that a run's tables are written as."""
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h: paths are relative to the working directory.


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class PublishedColumn(_Part):
    """A column as DuckDB reads it from the file, and what it means."""

    name: str
    type: str
    meaning: str


class PublishedTable(_Part):
    """A table and its file."""

    name: str
    meaning: str
    file: str
    rows: int
    size_bytes: int
    sha256: str
    columns: tuple[PublishedColumn, ...]


class PublishedPosition(_Part):
    """The position up to which a file of the log was read. `problem`: why not to its end; `gone`: what that copy of the run lacks."""

    run: str
    file: str
    row: int
    records: int
    problem: str | None
    gone: str | None
    read_at: AwareDatetime


class Manifest(_Part):
    """The contents of a publication. `run`: the one that it is of; None: all of a log."""

    publication: Literal[1] = 1
    esper: str
    published_at: AwareDatetime
    run: str | None
    positions: tuple[PublishedPosition, ...]
    tables: tuple[PublishedTable, ...]


class Published(NamedTuple):
    """A publication: its folder, the number of rows by file name, and the bytes of those files."""

    folder: Path
    files: dict[str, int]
    rows: int
    size_bytes: int


def publish(connection: duckdb.DuckDBPyConnection, folder: Path) -> Published:
    """Writes every table of the projection that `connection` reads into `folder`; all of it is whole and on disk when it returns.

    An earlier publication of a log there is replaced. Raises LogError where anything else is there, or where it cannot be written: nothing
    has changed then.
    """
    with _replacing(folder, None) as draft:
        return _write(connection, draft, folder, None)


def publish_run(directory: Directory, run: RunId, folder: Path, form: Form = "parquet") -> Published:
    """As `publish`, of one run in files of `form`, by a projection of its own that does not stay.

    In CSV what has parts is a JSON text, bytes are hex, and NULL is an empty field where an empty text is "".

    Raises LogError also where the run cannot be read to its end.
    """
    with _replacing(folder, run) as draft:
        own = draft / ".projection"
        own.mkdir()
        with Projection(directory, own / AUDIT_FILE) as projection:
            for reached in projection.refresh([run]).problems:
                raise LogError(f"cannot publish run {run}: {reached.problem}")
            published = _write(projection.connection, draft, folder, run, form)
        shutil.rmtree(own)
        return published


def _write(connection: duckdb.DuckDBPyConnection, draft: Path, folder: Path, run: RunId | None, form: Form = "parquet") -> Published:
    write = _write_table if form == "parquet" else _write_csv
    tables = tuple(write(connection, draft, name, meaning, columns) for name, meaning, columns in described())
    now, positions = datetime.now(UTC), _positions(connection)
    manifest = Manifest(esper=version("esper-training"), published_at=now, run=run, positions=positions, tables=tables)
    write_durably(draft / MANIFEST, manifest.model_dump_json(indent=1).encode())
    write_durably(draft / README, _readme(manifest).encode())
    files = {table.file: table.rows for table in tables}
    return Published(folder, files, sum(files.values()), sum(table.size_bytes for table in tables))


def _write_table(connection: duckdb.DuckDBPyConnection, draft: Path, name: str, meaning: str, columns: Sequence[Column]) -> PublishedTable:
    """Writes a table in the order of its rows, a row group at a time."""
    written = tuple(PublishedColumn(name=one.name, type=_type_of(one.type), meaning=one.meaning) for one in columns)
    path, rows = draft / f"{name}.parquet", 0
    listed = ", ".join(f'"{column.name}"' for column in columns)
    reader = connection.sql(f'SELECT {listed} FROM "{name}"').to_arrow_reader(_VECTOR)
    measured = [column.name for column in written if column.type in _WITH_STATISTICS]
    with path.open("w+b") as file:
        with pq.ParquetWriter(file, reader.schema, compression="zstd", write_statistics=measured) as writer:
            for group in _row_groups(reader):
                writer.write_table(group)
                rows += group.num_rows
        digest = _durable_digest(file)
    size = path.stat().st_size
    return PublishedTable(name=name, meaning=meaning, file=path.name, rows=rows, size_bytes=size, sha256=digest, columns=written)


def _write_csv(connection: duckdb.DuckDBPyConnection, draft: Path, name: str, meaning: str, columns: Sequence[Column]) -> PublishedTable:
    """Writes a table in the order of its rows as CSV (RFC 4180), with a line of names."""
    written = tuple(PublishedColumn(name=one.name, type=one.type, meaning=one.meaning) for one in columns)
    path, rows = draft / f"{name}.csv", 0
    reader = connection.sql(f'SELECT {", ".join(map(_flat_column, columns))} FROM "{name}"').to_arrow_reader(_VECTOR)
    with path.open("w+b") as file:
        with pyarrow.csv.CSVWriter(file, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
        digest = _durable_digest(file)
    size = path.stat().st_size
    return PublishedTable(name=name, meaning=meaning, file=path.name, rows=rows, size_bytes=size, sha256=digest, columns=written)


def _flat_column(column: Column) -> str:
    """The column as something that CSV has."""
    quoted = f'"{column.name}"'
    if column.type == "BLOB":
        return f"lower(hex({quoted})) AS {quoted}"
    if column.type not in _FLAT:
        return f"CAST({quoted if column.type in ('HUGEINT', 'JSON') else f'to_json({quoted})'} AS VARCHAR) AS {quoted}"
    return quoted


def _durable_digest(file: BufferedRandom) -> str:
    """sha256 over what was written to `file`, which is on disk when it returns."""
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _row_groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The rows of `reader`, as many at a time as one row group holds."""
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        batches.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= _MOST_ROWS or size >= _MOST_BYTES:
            yield pa.Table.from_batches(batches)
            batches, rows, size = [], 0, 0
    if batches:
        yield pa.Table.from_batches(batches)


def _positions(connection: duckdb.DuckDBPyConnection) -> tuple[PublishedPosition, ...]:
    names = ("run", "file", "row", "records", "problem", "gone")
    found = connection.execute('SELECT run, file, "row", records, problem, gone, read_at FROM positions ORDER BY run, file').fetchall()
    return tuple(PublishedPosition(**dict(zip(names, row, strict=True)), read_at=at.replace(tzinfo=UTC)) for *row, at in found)


def _type_of(kind: str) -> str:
    """The type that the file has for DuckDB's type `kind`."""
    for own, parquet in _PARQUET.items():
        kind = kind.replace(own, parquet)
    return kind


@contextmanager
def _replacing(folder: Path, run: RunId | None) -> Iterator[Path]:
    """An empty folder beside `folder`, which takes its place when the block ends, and is removed where it fails."""
    target = folder.resolve()
    draft = target.with_name(f".{target.name}.draft")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = Lock(target.with_name(f".{target.name}.lock"), f"the publication {folder}")
        try:
            _require_replaceable(target, folder, run)
            # Of a process that was killed; or an older publication, where it was killed after the exchange.
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            yield draft
            sync_folder(draft)
            _put(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            lock.release()
    except OSError as error:
        raise LogError(f"cannot publish to {folder}: {error.strerror or error}") from error
    except duckdb.Error as error:
        raise LogError(f"cannot publish to {folder}: {str(error).splitlines()[0]}") from error


def _require_replaceable(target: Path, folder: Path, run: RunId | None) -> None:
    """Raises LogError unless there is nothing at `target`, an empty folder, or an earlier publication and no more."""
    try:
        found = {path.name for path in target.iterdir()}
    except FileNotFoundError:
        return
    if not found:
        return
    what = "a log" if run is None else f"run {run}"
    expected = f"cannot publish to {folder}: expected no folder, an empty one, or an earlier publication of {what}"
    try:
        earlier = Manifest.model_validate_json((target / MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise LogError(f"{expected}; found no {MANIFEST} of one: name another folder") from error
    if earlier.run != run:
        raise LogError(f"{expected}; found one of {'a log' if earlier.run is None else f'run {earlier.run}'}: name another folder")
    strange = found - {MANIFEST, README} - {table.file for table in earlier.tables}
    if strange:
        raise LogError(f"{expected}; found {', '.join(sorted(strange)[:3])} in one: move that elsewhere, for all of the folder is replaced")


def _put(draft: Path, target: Path) -> None:
    """Gives `draft` the name `target`; an older folder of that name has the draft's then, or is gone."""
    if not (target / MANIFEST).exists():
        draft.rename(target)
    elif not _exchange(draft, target):
        _replace_in_steps(draft, target)
    sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """True where the two folders have each other's name now, at one stroke; False where this system or file system has no such stroke."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0


def _replace_in_steps(draft: Path, target: Path) -> None:
    """Puts `draft` in the place of `target`, which is nowhere for an instant."""
    older = target.with_name(f".{target.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    target.rename(older)
    try:
        draft.rename(target)
    except OSError:
        older.rename(target)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _readme(manifest: Manifest) -> str:
    """The README of the folder."""
    of = "a log" if manifest.run is None else f"run {manifest.run}"
    tables = "\n".join(f"| [{table.file}]({table.file}) | {table.rows} | {table.meaning} |" for table in manifest.tables)
    form = Path(manifest.tables[0].file).suffix.removeprefix(".")
    return _README.format(
        of=of, esper=manifest.esper, at=f"{manifest.published_at:%Y-%m-%d %H:%M:%S}", manifest=MANIFEST, tables=tables, form=form
    )


_README = """# The tables of {of}

Published by Esper {esper} at {at} UTC, a file a table. `{manifest}` has the type and the meaning
of every column, the number of rows and the sha256 of every file, and how far the log was read.

```
duckdb:  SELECT epoch, adaptation, reason FROM 'decisions.{form}' WHERE run = '...' ORDER BY moment
pandas:  pandas.read_{form}("decisions.{form}")        polars:  polars.scan_{form}("decisions.{form}")
Spark:   spark.read.{form}("/path/to/decisions.{form}")
```

Times are in UTC. NULL is not measured; NaN and infinity were measured, so a limit needs a test for both. The values of `settings` are
JSON texts. `moment` numbers the records of a run; `cause` is the `id` of the record that a row follows from, and `events` holds every
record as it was written. The next publication replaces the whole folder: keep nothing else in it.

| file | rows | what |
|---|---|---|
{tables}
"""
