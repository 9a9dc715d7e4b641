"""docs/tables.md: every table and view of the audit, with the meaning of each column. The whole page is generated."""

from pathlib import Path

from esper.audit.sql_files import views
from esper.audit.table_sql import described
from esper.audit.tables import Column

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"
_HEAD = """# Tables

<!-- generated: python -m tools.schemas --tables -->

Everything that SQL can ask of a log: `esper sql`, `esper.sql(...)`, `POST /api/v1/sql`, and what `esper audit publish` writes. `esper audit
schema TABLE` prints one of them. How they come about stands in [answering.md](answering.md).

A column that is made of a payload is named after its path there, joined by `_`. NULL is not measured. A value that is not finite is NaN or
infinity: in SQL `NaN > 0.7` is true, so write a limit as `coalesce(isfinite(x) AND x > 0.7, false)`. Times are UTC. A map is read as
`metrics['accuracy']`, a part of a STRUCT as `evaluation.mean`.
"""


def tables_page() -> str:
    """The page as Markdown."""
    parts = [_HEAD, "## Tables\n"]
    parts += [f"### {name}\n\n{meaning}\n\n{_columns(columns)}" for name, meaning, columns in described()]
    parts += ["## Views and macros\n"]
    parts += [f"### {view.name}\n\n{view.meaning}\n\n```sql\n{view.text.partition(chr(10))[2].strip()}\n```\n" for view in views()]
    return "\n".join(parts)


def _columns(columns: tuple[Column, ...]) -> str:
    rows = [f"| `{column.name}` | `{column.type}` | {' '.join(column.meaning.split())} |" for column in columns]
    return "\n".join(("| column | type | meaning |", "|---|---|---|", *rows)) + "\n"
