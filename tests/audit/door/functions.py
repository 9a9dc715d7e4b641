"""Calls of every function that DuckDB lists, with arguments that would reach a secret if the function could."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import duckdb

_TURNS = 4


class Function(NamedTuple):
    """One form of a function, as `duckdb_functions` has it: the types of its parameters, and of more that may follow."""

    name: str
    kind: str
    types: tuple[str, ...]
    more: str | None


def functions() -> list[Function]:
    """Every form of every function."""
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT function_name, function_type, parameters, parameter_types, varargs FROM duckdb_functions() ORDER BY ALL"
        ).fetchall()
    return [Function(name, kind, _types(names, types), more) for name, kind, names, types, more in rows]


def _types(names: Sequence[str] | None, types: Sequence[str | None] | None) -> tuple[str, ...]:
    """The types of the parameters that are given by place; those of a macro are unknown."""
    known = [kind or "ANY" for kind in types or ()]
    return tuple(known or ["ANY"] * len(names or ()))


def calls(function: Function) -> list[str]:
    """Statements that call `function` with the words of an arena: a few of all combinations, for each number of arguments that it takes."""
    return list(dict.fromkeys(_calls(function)))


def _calls(function: Function) -> Iterator[str]:
    counts = range(len(function.types) + 1) if function.kind in ("table", "table_macro", "pragma") else [len(function.types)]
    for count in counts:
        types = [*function.types[:count], *([function.more] if function.more and count == len(function.types) else [])]
        choices = [_values(kind) for kind in types]
        reaching = any("'" in value for values in choices for value in values)  # What takes no text cannot be told where to reach.
        for turn, shift in product(range(_TURNS), (0, 1)) if reaching else [(0, 0)]:
            arguments = [values[(turn + shift * place) % len(values)] for place, values in enumerate(choices)]
            yield _call(function, ", ".join(arguments))


def _call(function: Function, arguments: str) -> str:
    name = function.name.replace('"', '""')
    if function.kind in ("table", "table_macro"):
        return f'FROM "{name}"({arguments})'
    if function.kind == "pragma":
        return f"PRAGMA {name}({arguments})" if arguments else f"PRAGMA {name}"
    if function.kind == "window":
        return f'SELECT "{name}"({arguments}) OVER () FROM t'
    return f'SELECT "{name}"({arguments}) FROM t LIMIT 3'


def _values(kind: str) -> tuple[str, ...]:
    """Arguments for a parameter of type `kind`."""
    kind = kind.upper()
    if kind.endswith("[]"):
        return tuple(f"[{value}]" for value in _values(kind[:-2]))
    if "INT" in kind and kind not in ("INTERVAL", "POINTER"):
        return _VALUES["NUMBER"]
    if kind.startswith(("DATE", "TIME")):
        return (f"(TIMESTAMP '2026-05-01 12:00:00')::{kind}",)
    return _VALUES.get(kind, (f"NULL::{kind}", "'{given}'"))


_ANY = ("'{given}'", "1", "'{folder}/*'", "[1, 2]", "'{variable}'", "b")
_NUMBER = ("1", "7")
_VALUES = {
    "VARCHAR": ("'{given}'", "'{folder}/*'", "'FROM read_text(''{given}'')'", "'{url}/x'", "'{variable}'", "'t'"),
    "ANY": _ANY,
    "T": _ANY,
    "K": _ANY,
    "V": _ANY,
    "NUMBER": _NUMBER,
    "DOUBLE": _NUMBER,
    "FLOAT": _NUMBER,
    "DECIMAL": _NUMBER,
    "BIGNUM": _NUMBER,
    "BLOB": ("'{given}'::BLOB",),
    "JSON": ("json_serialize_sql('FROM read_text(''{given}'')')",),
    "BOOLEAN": ("true",),
    "INTERVAL": ("INTERVAL 1 SECOND",),
    "POINTER": ("4096::BIGINT::POINTER", "NULL"),
    "TABLE": ("(FROM t)",),
}
