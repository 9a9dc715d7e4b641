"""The projection holds every record once, whatever happens to its process, its file or the log."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from esper.audit import projection as projection_module
from esper.audit.conflicts import compare_with_log
from esper.audit.projection import AUDIT_FILE, Projection
from esper.audit.tables import BY_NAME
from esper.errors import LogError
from esper.events.envelope import Record
from esper.history.run_history import History
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE
from tests.audit.conftest import Ask
from tests.observer.observed_runs import Growing
from tests.synthetic import RUN, write_run

pytestmark = pytest.mark.whole


@pytest.fixture
def copied(observed_log: Path, tmp_path: Path) -> Directory:
    """A copy of the observed log, without what was projected from it."""
    shutil.copytree(observed_log / RUN, tmp_path / "copied" / RUN)
    return Directory(tmp_path / "copied")


@pytest.fixture
def opened(copied: Directory) -> Iterator[Projection]:
    """Its projection, up to date."""
    with Projection(copied) as made:
        made.refresh()
        yield made


def alter(directory: Directory, statement: str) -> None:
    """Changes a finished run's file behind the log's back."""
    with closing(sqlite3.connect(directory.path / RUN / RUN_FILE)) as connection, connection:
        connection.execute(statement)


def rows(projection: Projection, sql: str) -> list[tuple[object, ...]]:
    return projection.connection.execute(sql).fetchall()


def test_every_record_stands_in_events_once(ask: Ask, records: tuple[Record, ...]) -> None:
    found = ask(
        "SELECT id, topic, sequence, fact, moment, type, epoch, step, cause, chain, data FROM events WHERE file = 'run' ORDER BY row"
    )
    assert found == [
        (r.id, r.topic, r.sequence, r.fact, r.moment, r.type, r.epoch, r.step, r.cause, r.chain, r.data.decode()) for r in records
    ]


def test_every_record_of_a_sound_log_stands_in_its_tables(ask: Ask) -> None:
    assert ask("SELECT count(*) FROM events WHERE problem IS NOT NULL OR NOT follows") == [(0,)]


def test_the_rows_of_columns_are_those_that_a_reader_of_the_log_gets(ask: Ask, history: History) -> None:
    expected = [(row["step"], row["loss"], row["gradient_norm"]) for row in history.frame("telemetry.training.steps").rows()]
    assert repr(ask("SELECT step, loss, gradient_norm FROM steps ORDER BY moment, step")) == repr(expected)


def test_a_loss_that_is_no_number_stays_one_that_passes_no_limit(ask: Ask) -> None:
    assert ask("SELECT count(*) FROM steps WHERE isnan(loss)") == [(1,)]
    assert ask("SELECT count(*) FROM steps WHERE coalesce(isfinite(loss) AND loss > 1e300, false)") == [(0,)]


def test_what_was_derived_stands_beside_what_it_was_derived_from(ask: Ask) -> None:
    assert ask("SELECT count(*) > 0 FROM anomalies JOIN events ON events.id = anomalies.cause AND events.file = 'run'") == [(True,)]
    assert ask("SELECT count(*) > 0 FROM alerts WHERE status = 'firing' AND labels IS NOT NULL") == [(True,)]


def test_a_second_refresh_reads_nothing(opened: Projection) -> None:
    assert opened.refresh()[:2] == (0, 0)


def test_a_run_that_is_being_written_is_read_on(directory: Directory, records: tuple[Record, ...], projection: Projection) -> None:
    growing = Growing(directory.path, records)
    with Projection(directory) as made:
        for count in (1, 5, 60, 1, 1000):
            growing.write(count)
            made.refresh()
        growing.log.close()
        kept = [name for name in BY_NAME if name not in ("windows", "anomalies", "trends", "alerts", "observers")]
        assert {name: made.digests()[name] for name in kept} == {name: projection.digests()[name] for name in kept}


def test_batches_of_any_size_give_the_same_tables(copied: Directory, projection: Projection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper.audit.reading._PAGE", 7)
    monkeypatch.setattr("esper.audit.reading.MOST_RECORDS", 7)
    with Projection(copied) as made:
        made.refresh()
        assert made.digests() == projection.digests()


def test_a_rebuild_gives_the_same_rows(opened: Projection) -> None:
    before = opened.digests()
    opened.rebuild("a test asks for it")
    assert opened.refresh().records > 200
    assert opened.digests() == before


def test_rows_that_were_removed_behind_its_back_are_noticed_at_the_next_opening(copied: Directory) -> None:
    with Projection(copied) as made:
        made.refresh()
        before = made.digests()
        made.connection.execute("DELETE FROM decisions WHERE adaptation = 'graft'")
    with Projection(copied) as again:
        assert again.made_anew is not None
        assert "table decisions has" in again.made_anew
        again.refresh()
        assert again.digests() == before


def test_a_file_that_is_no_database_is_made_anew(copied: Directory) -> None:
    (copied.path / AUDIT_FILE).write_bytes(b"not a database" * 1000)
    with Projection(copied) as made:
        assert made.made_anew is not None
        assert made.refresh().records > 200


def test_tables_of_another_version_are_made_anew(copied: Directory) -> None:
    with Projection(copied) as made:
        made.refresh()
        made.connection.execute("UPDATE meta SET tables = 'of another version'")
    with Projection(copied) as again:
        assert again.made_anew == "its tables are those of another version"
        assert again.refresh().records > 200


def test_a_wal_that_was_planted_changes_nothing(copied: Directory, tmp_path: Path) -> None:
    with Projection(copied) as made:
        made.refresh()
        before = made.digests()
    shutil.copy(copied.path / AUDIT_FILE, tmp_path / AUDIT_FILE)
    # Another process writes into a copy and is cut off before it checkpoints: its WAL fits the file.
    planted = duckdb.connect(tmp_path / AUDIT_FILE)
    planted.execute("PRAGMA disable_checkpoint_on_shutdown")
    planted.execute("UPDATE decisions SET confidence = 0.99")
    planted.close()
    shutil.copy(tmp_path / f"{AUDIT_FILE}.wal", copied.path / f"{AUDIT_FILE}.wal")
    with Projection(copied) as again:
        again.refresh()
        assert again.digests() == before


def test_a_record_that_is_altered_after_it_was_read_is_a_conflict(copied: Directory) -> None:
    with Projection(copied) as made:
        made.refresh()
        alter(copied, "UPDATE records SET data = CAST(CAST(data AS TEXT) || ' ' AS BLOB) WHERE row = 40")
        made.refresh()
        assert compare_with_log(made, [RUN]) == 1
        assert rows(made, 'SELECT run, file, "row", what FROM conflicts') == [(RUN, "run", 40, "altered")]
        assert compare_with_log(made, [RUN]) == 0  # The same is noticed once.


def test_a_record_that_is_no_longer_there_is_a_conflict(copied: Directory) -> None:
    with Projection(copied) as made:
        made.refresh()
        alter(copied, "DELETE FROM records WHERE row IN (30, (SELECT max(row) FROM records))")
        made.refresh()
        assert compare_with_log(made, [RUN]) == 2
        assert {what for (what,) in rows(made, "SELECT what FROM conflicts")} == {"missing"}


def test_a_run_that_is_gone_is_a_conflict_in_every_record(copied: Directory) -> None:
    with Projection(copied) as made:
        records = made.refresh().records
        shutil.rmtree(copied.path / RUN)
        made.refresh()
        assert compare_with_log(made, [RUN]) == records


def test_conflicts_outlast_a_rebuild(copied: Directory) -> None:
    with Projection(copied) as made:
        made.refresh()
        alter(copied, "UPDATE records SET data = CAST(CAST(data AS TEXT) || ' ' AS BLOB) WHERE row = 40")
        compare_with_log(made, [RUN])
        made.rebuild("a test asks for it")
        assert rows(made, "SELECT count(*) FROM conflicts") == [(1,)]
    with Projection(copied) as again:
        assert again.made_anew is None


BROKEN = {
    "UPDATE records SET type = 'esper.unheard-of.v1' WHERE row = 40": "unheard-of",
    "UPDATE records SET data = X'7b' WHERE row = 40": "breaks its schema",
    "UPDATE records SET data = X'ff' WHERE row = 40": "breaks its schema",
    "UPDATE records SET topic = 'innovation.field_reports', sequence = 99 WHERE row = 40": "expected ",
    "UPDATE records SET sequence = 1 WHERE row = (SELECT max(row) FROM records WHERE topic = 'control.tamiyo.decisions')": "sequence 1",
    "UPDATE records SET incarnation = 2 WHERE row = 40": "incarnation 1 wrote after incarnation 2",
}


@pytest.mark.parametrize(("change", "problem"), BROKEN.items(), ids=BROKEN.values())
def test_a_record_that_cannot_stand_in_a_table_is_kept_with_the_reason(copied: Directory, change: str, problem: str) -> None:
    alter(copied, change)
    with Projection(copied) as made:
        made.refresh()
        found = rows(made, "SELECT problem FROM events WHERE problem IS NOT NULL")
        assert found
        assert problem in str(found[0][0])
        assert rows(made, "SELECT count(*) > 200 FROM events") == [(True,)]


def test_a_number_that_duckdb_cannot_hold_is_kept_with_the_reason(copied: Directory) -> None:
    big = "CAST(replace(CAST(data AS TEXT), 'expires_epoch\":', 'expires_epoch\":12345678901234567890') AS BLOB)"
    alter(copied, f"UPDATE records SET data = {big} WHERE row = (SELECT min(row) FROM records WHERE type = 'esper.command.issued.v1')")  # noqa: S608
    with Projection(copied) as made:
        before = made.refresh()
        [(problem,)] = rows(made, "SELECT problem FROM events WHERE problem IS NOT NULL")
        assert "cannot stand in table commands" in str(problem)
        assert before.problems == ()
        assert rows(made, "SELECT count(*) > 10 FROM commands") == [(True,)]


def test_a_file_that_cannot_be_read_ends_no_other_runs_reading(copied: Directory) -> None:
    write_run(copied, run=type(RUN)("01900000-0000-7000-8000-0000000000ff"))
    with (copied.path / RUN / RUN_FILE).open("r+b") as file:
        file.truncate(5000)
    with Projection(copied) as made:
        refreshed = made.refresh()
        assert [(one.run, one.file) for one in refreshed.problems] == [(RUN, "run")]
        assert rows(made, "SELECT count(*) FROM runs") == [(1,)]
        assert "damaged" in str(rows(made, "SELECT problem FROM positions WHERE problem IS NOT NULL")[0][0])


def test_what_was_not_written_whole_is_not_there_at_all(copied: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    class CutError(Exception):
        pass

    def cut(*_: object) -> None:
        raise CutError

    with Projection(copied) as made:
        monkeypatch.setattr(made, "_reach", cut)
        with pytest.raises(CutError):
            made.refresh()
        assert rows(made, "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM decisions), (SELECT count(*) FROM positions)") == [
            (0, 0, 0)
        ]
        monkeypatch.undo()
        assert made.refresh().records > 200


def test_a_folder_at_its_place_is_said(copied: Directory) -> None:
    (copied.path / AUDIT_FILE).mkdir()
    with pytest.raises(LogError, match=r"cannot make \S*audit\.duckdb anew: expected a file that may be removed, got: Is a directory"):
        Projection(copied)


def test_a_folder_that_took_its_place_is_said(opened: Projection) -> None:
    opened.path.unlink()
    opened.path.mkdir()
    with pytest.raises(LogError, match="expected a file that may be removed"):
        opened.refresh()


def test_a_file_that_is_exchanged_while_it_is_opened_is_not_taken_for_its_own(
    copied: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Projection(copied) as made:
        path = made.path
    connected = projection_module._connected

    def exchanged(at: Path) -> duckdb.DuckDBPyConnection:
        connection = connected(at)
        shutil.copy(at, tmp_path / "theirs")
        (tmp_path / "theirs").rename(at)
        return connection

    monkeypatch.setattr(projection_module, "_connected", exchanged)
    with pytest.raises(LogError, match="it was removed or replaced at that moment"):
        Projection(copied, path)
