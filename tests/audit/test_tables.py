"""The description of the tables covers every field of every kind of event."""

import duckdb
import pytest

from esper.audit.table_sql import columns_of, ddl, described, paths_of, selection
from esper.audit.tables import BY_NAME, TABLES, Table
from esper.events.fields import Event
from esper.events.kinds import KINDS
from esper.events.kinds.run import StreamEnded
from tools.schemas.tables_page import PAGE, tables_page

# Stand in another table, or repeat what the same record says elsewhere.
REPEATED = {
    "esper.epoch.completed.v1": {
        "system.epoch",
        "system.train_loss",
        "system.train_metrics",
        "system.validation_loss",
        "system.validation_metrics",
        "system.field_reports",
    }
}


def covered(kind: str) -> set[str]:
    """The paths of the payload that some table has."""
    found: set[str] = set()
    for table in TABLES:
        for one in table.kinds:
            if kind == one.KIND:
                rows = table.rows.get(one)
                found |= {rows, *table.also} if rows else {path for path in paths_of(one) if path not in table.without}
    return found


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not StreamEnded], ids=lambda kind: kind.KIND)
def test_every_field_of_a_payload_is_a_column_or_gives_rows(kind: type[Event]) -> None:
    assert set(paths_of(kind)) - covered(kind.KIND) == REPEATED.get(kind.KIND, set())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_what_is_selected_fits_the_table(table: Table) -> None:
    with duckdb.connect() as connection:
        for name, _, columns in described():
            connection.execute(ddl(name, columns))
        for kind in table.kinds:
            given = connection.execute(f"DESCRIBE {selection(table, kind, 'events')}").fetchall()
            assert [row[0] for row in given] == [column.name for column in columns_of(table)]


def test_a_word_of_sql_is_no_name_of_a_column() -> None:
    assert "place" in {column.name for column in columns_of(BY_NAME["run_ends"])}
    with duckdb.connect() as connection:
        reserved = {
            row[0]
            for row in connection.execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'").fetchall()
        }
    assert not {column.name for _, _, columns in described() for column in columns} & reserved


def test_every_table_and_column_has_a_meaning_or_a_name_that_says_it() -> None:
    assert all(meaning.endswith(".") for _, meaning, _ in described())


def test_the_page_of_the_tables_is_as_generated() -> None:
    assert PAGE.read_text(encoding="utf-8") == tables_page(), "make it anew: python -m tools.schemas --tables"
