"""A projection as a folder of Parquet files, which others read without Esper."""

import hashlib
import json
import math
import re
import resource
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esper.audit.ownership import snapshot_of
from esper.audit.projection import Projection
from esper.audit.publish import MANIFEST, README, _replace_in_steps, publish, publish_run
from esper.audit.snapshot import opened
from esper.audit.table_sql import described
from esper.audit.tables import CONFLICTS
from esper.errors import LogError
from esper.observer.observing import Observer
from esper.oona.directory import Directory, new_run_id
from esper.oona.emitter import Emitter
from esper.oona.file import RUN_FILE
from esper.oona.lock import Lock
from tests.beginnings import run_started
from tests.observer.observed_runs import NOW, SETTINGS, problems
from tests.synthetic import BEGAN, RUN, ticking, write_run

pytestmark = pytest.mark.whole

TABLES = [name for name, _, _ in described()]
WIDE = new_run_id(BEGAN - timedelta(days=1), bytes(10))
SETTING = {"policy.tolerance": 0.15, "trainer.device": "cpu", "trainer.names": ["a", {"b": True}]}


@pytest.fixture(scope="session")
def projection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Projection]:
    """Of the synthetic run under way, observed as far as it got, and of a run with a wide rng seed."""
    directory = Directory(tmp_path_factory.mktemp("published"))
    write_run(directory, finish=False)
    with Observer(directory, SETTINGS, now=lambda: NOW + timedelta(seconds=1), report=problems.append) as observer:
        observer.turn(0.0)
    with directory.create(WIDE) as log, Emitter(log, WIDE, clock=ticking()) as emitter:
        emitter.emit(run_started(rng_seed=2**64 - 1, settings=SETTING), epoch=0, step=0)
    with Projection(directory) as projected:
        projected.refresh()
        yield projected


@pytest.fixture(scope="session")
def published(projection: Projection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its publication."""
    return publish(projection.connection, tmp_path_factory.mktemp("out") / "tables").folder


def manifest(folder: Path) -> dict[str, dict[str, object]]:
    """The tables in a manifest, by name."""
    return {table["name"]: table for table in json.loads((folder / MANIFEST).read_bytes())["tables"]}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_reads_back_without_duckdb_as_it_was(name: str, projection: Projection, published: Path) -> None:
    there: pa.Table = projection.connection.sql(f'FROM "{name}"').to_arrow_table()
    read = pq.read_table(published / f"{name}.parquet")
    assert read.column_names == there.column_names
    assert repr(read.to_pylist()) == repr(there.to_pylist())


@pytest.mark.parametrize("name", TABLES)
def test_the_manifest_has_each_column_s_type_as_duckdb_reads_it(name: str, published: Path) -> None:
    found = duckdb.connect().execute(f"DESCRIBE FROM '{published}/{name}.parquet'").fetchall()
    columns = manifest(published)[name]["columns"]
    assert isinstance(columns, list)
    written = [(column["name"], column["type"].replace('"', "")) for column in columns]
    assert written == [(column, kind.replace('"', "")) for column, kind, *_ in found]


def test_no_bit_of_a_random_generator_s_seed_is_lost(published: Path) -> None:
    assert 2**64 - 1 in pq.read_table(published / "runs.parquet")["rng_seed"].to_pylist()


def test_settings_are_json_texts_by_name(published: Path) -> None:
    [run] = pq.read_table(published / "runs.parquet", filters=[("run", "=", WIDE)]).to_pylist()
    assert {name: json.loads(text) for name, text in run["settings"]} == SETTING


def test_the_manifest_has_the_meaning_of_tables_and_columns(published: Path) -> None:
    found = manifest(published)["conflicts"]
    columns = found["columns"]
    assert isinstance(columns, list)
    assert found["meaning"] == next(meaning for name, meaning, _ in described() if name == "conflicts")
    assert tuple((column["name"], column["meaning"]) for column in columns) == tuple((one.name, one.meaning) for one in CONFLICTS)


def test_a_value_that_is_not_finite_is_no_missing_one(published: Path) -> None:
    losses = pq.read_table(published / "steps.parquet")["loss"].to_pylist()
    assert sum(loss is not None and math.isnan(loss) for loss in losses) == 1


def test_duckdb_finds_what_is_not_finite_in_a_file_as_in_the_projection(projection: Projection, published: Path) -> None:
    asked = "SELECT count(*) FROM {} WHERE loss > 1e9"
    there = projection.connection.execute(asked.format("steps")).fetchall()
    assert duckdb.connect().execute(asked.format(f"'{published}/steps.parquet'")).fetchall() == there == [(1,)]


def test_the_manifest_counts_and_digests_the_files_that_there_are(published: Path) -> None:
    tables = manifest(published)
    found = {
        name: (
            pq.read_metadata(published / f"{name}.parquet").num_rows,
            hashlib.sha256((published / f"{name}.parquet").read_bytes()).hexdigest(),
            (published / f"{name}.parquet").stat().st_size,
        )
        for name in tables
    }
    assert {name: (table["rows"], table["sha256"], table["size_bytes"]) for name, table in tables.items()} == found
    assert {path.name for path in published.iterdir()} == {MANIFEST, README, *(f"{name}.parquet" for name in tables)}


def test_the_manifest_says_how_far_each_file_was_read(published: Path) -> None:
    said = json.loads((published / MANIFEST).read_bytes())
    assert [(one["run"], one["file"]) for one in said["positions"]] == [(WIDE, "run"), (RUN, "observed"), (RUN, "run")]
    [last] = [one for one in said["positions"] if (one["run"], one["file"]) == (RUN, "run")]
    assert (last["row"], last["records"], last["problem"]) == (221, 221, None)
    assert last["read_at"].endswith("Z")


def test_the_query_of_the_readme_can_be_asked(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"^duckdb: (.*)$", (published / README).read_text(), flags=re.MULTILINE)
    assert found is not None
    monkeypatch.chdir(published)
    assert len(duckdb.connect().execute(found[1].replace("...", RUN)).fetchall()) == 34


def test_a_row_group_holds_no_more_than_what_fits_into_memory(directory: Directory, tmp_path: Path) -> None:
    with Projection(directory) as projection:
        projection.connection.execute("INSERT INTO heartbeats (run, moment) SELECT 'r', unnest(range(300_000))")
        publish(projection.connection, tmp_path / "out")
    found = pq.read_metadata(tmp_path / "out" / "heartbeats.parquet")
    assert [found.row_group(at).num_rows for at in range(found.num_row_groups)] == [122_880, 122_880, 54_240]


def test_payloads_make_row_groups_of_fewer_rows(directory: Directory, tmp_path: Path) -> None:
    with Projection(directory) as projection:
        projection.connection.execute("INSERT INTO events (run, data) SELECT 'r', repeat('x', 8000) FROM range(18_432)")
        publish(projection.connection, tmp_path / "out")
    found = pq.read_metadata(tmp_path / "out" / "events.parquet")
    assert [found.row_group(at).num_rows for at in range(found.num_row_groups)] == [10_240, 8_192]


def test_the_next_publication_takes_the_place_of_the_last(projection: Projection, tmp_path: Path) -> None:
    first = publish(projection.connection, tmp_path / "out")
    before = (first.folder / MANIFEST).read_bytes()
    publish(projection.connection, tmp_path / "out")
    assert (tmp_path / "out" / MANIFEST).read_bytes() != before
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_who_reads_a_file_reads_it_to_its_end(projection: Projection, tmp_path: Path) -> None:
    made = publish(projection.connection, tmp_path / "out")
    with (tmp_path / "out" / "events.parquet").open("rb") as file:
        publish(projection.connection, tmp_path / "out")
        assert pq.read_table(file).num_rows == made.files["events.parquet"]


def test_a_snapshot_is_published_as_the_projection_is(directory: Directory, tmp_path: Path) -> None:
    write_run(directory)
    with opened(snapshot_of(directory).path) as connection:
        made = publish(connection, tmp_path / "out")
    assert (made.files["events.parquet"], made.files["decisions.parquet"]) == (233, 34)


def test_an_empty_folder_takes_a_publication(projection: Projection, tmp_path: Path) -> None:
    publish(projection.connection, tmp_path)
    assert (tmp_path / MANIFEST).exists()


def test_a_link_goes_on_to_name_the_publication(projection: Projection, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(tmp_path / "out")
    publish(projection.connection, tmp_path / "named")
    publish(projection.connection, tmp_path / "named")
    assert (tmp_path / "named").is_symlink()
    assert (tmp_path / "out" / MANIFEST).exists()


def test_a_folder_that_holds_anything_else_is_refused_and_left_alone(projection: Projection, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(LogError, match=r"expected no folder, an empty one, or an earlier publication of a log; found no manifest\.json"):
        publish(projection.connection, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_publication_that_somebody_keeps_more_in_is_refused(projection: Projection, tmp_path: Path) -> None:
    publish(projection.connection, tmp_path / "out")
    (tmp_path / "out" / "thesis.txt").write_text("years")
    with pytest.raises(LogError, match=r"found thesis\.txt in one"):
        publish(projection.connection, tmp_path / "out")


def test_one_run_does_not_take_the_place_of_all(projection: Projection, tmp_path: Path) -> None:
    publish(projection.connection, tmp_path / "out")
    with pytest.raises(LogError, match=rf"publication of run {RUN}; found one of a log: name another folder"):
        publish_run(projection.directory, RUN, tmp_path / "out")


def test_a_file_in_the_place_of_a_folder_is_refused(projection: Projection, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(LogError, match=r"cannot publish to .*out: Not a directory"):
        publish(projection.connection, tmp_path / "out")


def test_a_publication_that_cannot_be_read_out_leaves_the_last_one(directory: Directory, tmp_path: Path) -> None:
    with Projection(directory) as projection:
        publish(projection.connection, tmp_path / "out")
        before = (tmp_path / "out" / MANIFEST).read_bytes()
        projection.connection.execute("DROP TABLE windows")
        with pytest.raises(LogError, match=r"cannot publish to .*windows does not exist"):
            publish(projection.connection, tmp_path / "out")
    assert (tmp_path / "out" / MANIFEST).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.lock", "runs"}


def test_a_full_disk_leaves_the_last_publication(projection: Projection, tmp_path: Path) -> None:
    publish(projection.connection, tmp_path / "out")
    before = (tmp_path / "out" / MANIFEST).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(LogError, match=r"cannot publish to .*: File too large"):
            publish(projection.connection, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "out" / MANIFEST).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_what_a_killed_process_left_is_removed(projection: Projection, tmp_path: Path) -> None:
    (tmp_path / ".out.draft" / ".projection").mkdir(parents=True)
    publish(projection.connection, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_two_processes_do_not_publish_to_one_folder(projection: Projection, tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".out.lock", "a publication")
    with pytest.raises(LogError, match=r"the publication .*out is being written by this process"):
        publish(projection.connection, tmp_path / "out")
    lock.release()


def test_where_folders_cannot_change_names_one_follows_the_other(tmp_path: Path) -> None:
    for name in ("draft", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    _replace_in_steps(tmp_path / "draft", tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/draft"]


def test_one_run_is_published_without_the_others_and_without_a_trace(projection: Projection, tmp_path: Path) -> None:
    made = publish_run(projection.directory, WIDE, tmp_path / "out")
    assert (made.files["events.parquet"], made.files["runs.parquet"], made.files["epochs.parquet"]) == (1, 1, 0)
    assert pq.read_table(tmp_path / "out" / "events.parquet")["run"].to_pylist() == [WIDE]
    assert not [path for path in tmp_path.rglob("*") if "projection" in path.name or "duckdb" in path.name]


def test_a_run_that_cannot_be_read_is_not_published(directory: Directory, tmp_path: Path) -> None:
    write_run(directory)
    (directory.path / RUN / RUN_FILE).write_bytes(b"no database")
    with pytest.raises(LogError, match=rf"cannot publish run {RUN}: cannot open "):
        publish_run(directory, RUN, tmp_path / "out")
    assert not (tmp_path / "out").exists()
