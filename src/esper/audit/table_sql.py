"""The SQL that the description of the tables gives: their columns, the statements that make them, and those that fill them.

Columns, their types and their meanings follow from the models of the kinds. Holds no connection and runs no query.

A column's name is its path in the payload, joined by `_`; a map is a MAP, a list a LIST, a part inside a list or a row a STRUCT. Numbers
that are not finite are NaN and infinity in a DOUBLE; NULL is not measured. A payload is read by `from_json_strict`: where `from_json`
would give NULL for a value of another type, it raises.
"""

import json
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from esper.audit.tables import DATA, IDENTITY, OWN, PLACE, TABLES, Column, Table
from esper.events.fields import ByColumn, Columns, Event
from esper.events.meanings import field_meanings

# Words of SQL that are names of fields.
_RENAMED = {"where": "place", "limit": "limit_value", "check": "check_name"}
_SCALARS: tuple[tuple[type, str], ...] = ((bool, "BOOLEAN"), (int, "BIGINT"), (float, "DOUBLE"), (str, "VARCHAR"))
# Any 64 bits, signed or not, are a random generator's seed.
_WIDE: Mapping[tuple[str, ...], str] = {("rng_seed",): "HUGEINT"}


@cache
def columns_of(table: Table) -> tuple[Column, ...]:
    """The columns of `table`, in order; those of several kinds by name."""
    found = {column.name: column for column in PLACE}
    if not table.rows:
        found |= {column.name: column for column in IDENTITY}
    if table.status:
        found["status"] = Column("status", "VARCHAR", f"One of {', '.join(table.status.values())}.")
    for kind in table.kinds:
        for column in _payload_columns(table, kind):
            known = found.get(column.name)
            assert known is None or known.type == column.type or known in PLACE, f"{table.name}.{column.name} has two types"
            found[column.name] = known if known is not None and known not in PLACE else column
    return tuple(found.values())


def described() -> Iterator[tuple[str, str, tuple[Column, ...]]]:
    """Every table with its meaning and its columns, `events` first."""
    yield from ((name, *own) for name, own in OWN.items())
    yield from ((table.name, table.meaning, columns_of(table)) for table in TABLES)


def ddl(name: str, columns: Sequence[Column]) -> str:
    """The statement that makes the table `name`."""
    # Nothing is as large as the payloads; all other ways to compress them are tried in vain, which takes most of a checkpoint's time.
    kinds = (f"{_quoted(column.name)} {column.type}{' USING COMPRESSION zstd' if column is DATA else ''}" for column in columns)
    return f"CREATE TABLE {_quoted(name)} ({', '.join(kinds)})"


def comments(name: str, meaning: str, columns: Sequence[Column]) -> Iterator[str]:
    """The statements that keep the meaning of a table and of its columns in the database itself."""
    yield comment_on("TABLE", _quoted(name), meaning)
    for column in columns:
        yield comment_on("COLUMN", f"{_quoted(name)}.{_quoted(column.name)}", column.meaning)


def comment_on(kind: str, name: str, meaning: str) -> str:
    """The statement that keeps the meaning of one thing in the database."""
    return f"COMMENT ON {kind} {name} IS {sql_text(meaning)}"


def selection(table: Table, kind: type[Event], source: str) -> str:
    """The SELECT that gives the rows of `table` from the records of `kind` in the relation `source`, which is like `events`."""
    own = {column.name: column.expression for column in (*PLACE, *(() if table.rows else IDENTITY), *_payload_columns(table, kind))}
    if table.status:
        own["status"] = sql_text(table.status[kind])
    listed = ", ".join(f"{own.get(column.name, 'NULL')} AS {_quoted(column.name)}" for column in columns_of(table))
    structure = json.dumps({path[0]: _structure_below(kind, path[:1], _paths(table, kind)) for path in _paths(table, kind)})
    read = (
        f"SELECT *, from_json_strict(data, {sql_text(structure)}) AS j FROM {source} WHERE type = {sql_text(kind.KIND)} AND problem IS NULL"
    )
    return f"SELECT {listed} FROM ({read})"


def insertion(table: Table, kind: type[Event], source: str) -> str:
    """The statement that adds those rows to the table."""
    return f"INSERT INTO {_quoted(table.name)} {selection(table, kind, source)}"


def tables_of(kinds: Collection[str]) -> Iterator[tuple[Table, type[Event]]]:
    """Each table that events of the written names `kinds` stand in, with the kind."""
    for table in TABLES:
        for kind in table.kinds:
            if kind.KIND in kinds:
                yield table, kind


def paths_of(kind: type[Event]) -> Iterator[str]:
    """Every path of a payload of `kind` that is a column or may give rows, dotted."""
    for path, _, _ in _fields(kind, ()):
        yield ".".join(path)


def _payload_columns(table: Table, kind: type[Event]) -> Iterator[Column]:
    if not table.rows:
        for path, annotation, meaning in _fields(kind, ()):
            if not _is_within(path, table.without):
                yield Column(_name(path), _WIDE.get(path) or _sql(annotation), meaning, _reached(path))
        return
    rows = tuple(table.rows[kind].split("."))
    model = _row_model(kind, rows)
    for name, annotation in get_type_hints(model, include_extras=True).items():
        if name in model.model_fields:
            entry = get_args(_bare(annotation))[0] if issubclass(model, Columns) else annotation
            yield Column(_name((name,)), _sql(entry), field_meanings(model).get(name, ""), f"unnest({_reached((*rows, name))})")
    for path, annotation, meaning in _fields(kind, ()):
        if path[0] in table.also:
            yield _beside(path, annotation, meaning, _reached((*rows, next(iter(model.model_fields)))))


def _beside(path: tuple[str, ...], annotation: Any, meaning: str, rows: str) -> Column:
    """A field that stands beside the columns: the same for each row, or, of a map of columns, the row's own entry of each."""
    value = get_args(_bare(annotation))[1] if get_origin(_bare(annotation)) is dict else None
    if value is None or get_origin(_bare(value)) is not tuple:
        return Column(_name(path), _sql(annotation), meaning, _reached(path))
    entry = "lambda e: {'key': e.key, 'value': e.value[i]}"
    each = f"lambda i: map_from_entries(list_transform(map_entries({_reached(path)}), {entry}))"
    inner = f"MAP(VARCHAR, {_sql(get_args(_bare(value))[0])})"
    return Column(_name(path), inner, meaning, f"unnest(list_transform(range(1, len({rows}) + 1), {each}))")


def _fields(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Each field of `model` with its path and its meaning; of a part the fields of that instead."""
    hints = get_type_hints(model, include_extras=True)
    for name in model.model_fields:
        path, annotation = (*above, name), hints[name]
        part = _part(annotation)
        if part is not None and not issubclass(part, Columns):
            yield from _fields(part, path)
        else:
            yield path, annotation, field_meanings(model).get(name, "")


def _paths(table: Table, kind: type[Event]) -> list[tuple[str, ...]]:
    """The paths of the payload that the table reads."""
    if not table.rows:
        return [path for path, _, _ in _fields(kind, ()) if not _is_within(path, table.without)]
    return [tuple(table.rows[kind].split(".")), *((name,) for name in table.also)]


def _structure_below(kind: type[BaseModel], above: tuple[str, ...], paths: Collection[tuple[str, ...]]) -> Any:
    """DuckDB's structure of the value at `above`, with those of its fields alone that lead to one of `paths`."""
    annotation = _annotation(kind, above)
    if above in _WIDE:
        return _WIDE[above]
    part = _part(annotation)
    if part is None or above in paths:
        return _structure(annotation)
    inner = dict.fromkeys(path[len(above)] for path in paths if path[: len(above)] == above)
    return {name: _structure_below(kind, (*above, name), paths) for name in inner}


def _structure(annotation: Any) -> Any:
    """DuckDB's structure of a whole value."""
    row, part, bare = _by_column(annotation), _part(annotation), _bare(annotation)
    if row is not None:
        return {name: [_structure(hint)] for name, hint in get_type_hints(row, include_extras=True).items() if name in row.model_fields}
    if part is not None:
        return {name: _structure(hint) for name, hint in get_type_hints(part, include_extras=True).items() if name in part.model_fields}
    if get_origin(bare) is tuple:
        return [_structure(get_args(bare)[0])]
    return _sql(annotation)


def _sql(annotation: Any) -> str:
    """DuckDB's type of a value."""
    bare, part = _bare(annotation), _part(annotation)
    if part is not None:
        hints = get_type_hints(part, include_extras=True)
        return f"STRUCT({', '.join(f'{_quoted(name)} {_sql(hints[name])}' for name in part.model_fields)})"
    if get_origin(bare) is tuple:
        return f"{_sql(get_args(bare)[0])}[]"
    if get_origin(bare) is dict:
        return f"MAP(VARCHAR, {_sql(get_args(bare)[1])})"
    if get_origin(bare) is Literal or (isinstance(bare, type) and issubclass(bare, Enum)):
        return "VARCHAR"
    supertype = getattr(bare, "__supertype__", bare)
    return next((name for kind, name in _SCALARS if supertype is kind), "JSON")


def _bare(annotation: Any) -> Any:
    """The annotation without `Annotated` and without None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        (inner, *others) = [part for part in get_args(annotation) if part is not type(None)]
        return annotation if others else _bare(inner)
    return annotation


def _part(annotation: Any) -> type[BaseModel] | None:
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _by_column(annotation: Any) -> type[BaseModel] | None:
    """The model of a row, where the annotation is of rows that are written by column."""
    if get_origin(annotation) is Annotated and any(isinstance(mark, ByColumn) for mark in get_args(annotation)[1:]):
        row: type[BaseModel] = get_args(_bare(annotation))[0]
        return row
    return None


def _annotation(kind: type[BaseModel], path: tuple[str, ...]) -> Any:
    found = get_type_hints(kind, include_extras=True)[path[0]]
    part = _part(found)
    if len(path) == 1 or part is None:
        return found
    return _annotation(part, path[1:])


def _row_model(kind: type[BaseModel], path: tuple[str, ...]) -> type[BaseModel]:
    annotation = _annotation(kind, path)
    model = _by_column(annotation) or _part(annotation)
    assert model is not None, f"{kind.__name__}.{'.'.join(path)} has no columns"
    return model


def _is_within(path: tuple[str, ...], dotted: Collection[str]) -> bool:
    return any(path[: len(parts)] == parts for parts in (tuple(one.split(".")) for one in dotted))


def _name(path: tuple[str, ...]) -> str:
    name = "_".join(path)
    return _RENAMED.get(name, name)


def _reached(path: tuple[str, ...]) -> str:
    return ".".join(("j", *map(_quoted, path)))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_text(text: str) -> str:
    """`text` as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
