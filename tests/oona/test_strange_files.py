"""What stands in a run's folder was not necessarily written by Esper: no link is followed, and no schema but Esper's is trusted."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE, RUN_FILE
from esper.oona.observed import Observed, check_observed
from tests.oona.samples import RUN, mixed
from tests.oona.test_observed import derived

RECORDS = mixed(300)


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file of the user's, outside the log."""
    path = tmp_path / "users"
    path.write_text("mine")
    return path


def seal(log: Directory) -> None:
    with log.resume(RUN) as run:
        run.seal()


def observe(log: Directory) -> None:
    with Observed(log.path / RUN, RUN) as observed:
        observed.save([derived("a")])
        observed.seal()


@pytest.mark.parametrize("act", [seal, observe])
@pytest.mark.parametrize(
    "name",
    ["reserve", "sealed.new", ".sealed.PID", "observed.sealed.new", ".observed.sealed.PID", "observed.sqlite.new"],
)
def test_a_link_in_a_runs_folder_is_not_followed(tmp_path: Path, users: Path, name: str, act: Callable[[Directory], None]) -> None:
    log = Directory(tmp_path / "runs", create=True)
    with log.create(RUN) as run:
        run.append(RECORDS[:10])
    (log.path / RUN / name.replace("PID", str(os.getpid()))).symlink_to(users)
    act(log)
    assert users.read_text() == "mine"


@pytest.mark.parametrize("name", [RUN_FILE, "lock", OBSERVED_FILE])
def test_what_is_a_link_is_not_written(tmp_path: Path, name: str) -> None:
    log = Directory(tmp_path / "runs", create=True)
    with log.create(RUN) as run:
        run.append(RECORDS[:10])
    Observed(log.path / RUN, RUN).close()
    (log.path / RUN / name).rename(tmp_path / "outside")
    before = (tmp_path / "outside").read_bytes()
    (log.path / RUN / name).symlink_to(tmp_path / "outside")
    with pytest.raises(LogError):
        observe(log) if name == OBSERVED_FILE else seal(log)
    assert (tmp_path / "outside").read_bytes() == before


def test_a_log_that_is_reached_through_a_link_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    with Directory(tmp_path / "runs").create(RUN) as run:
        run.append(RECORDS[:10])
    seal(Directory(tmp_path / "runs"))


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TRIGGER forget AFTER INSERT ON records BEGIN DELETE FROM records WHERE row = new.row - 5; END",
        "CREATE VIEW more AS SELECT * FROM records",
        "CREATE TABLE more (x)",
        "CREATE INDEX one ON records (moment)",
        "DROP INDEX facts",
        "DROP INDEX telemetry",
    ],
)
def test_a_schema_that_is_not_its_own_is_refused(tmp_path: Path, planted: str) -> None:
    log = Directory(tmp_path)
    with log.create(RUN) as run:
        run.append(RECORDS[:10])
    with closing(sqlite3.connect(tmp_path / RUN / RUN_FILE)) as connection:
        connection.execute(planted)
    for opening in (log.open, log.resume):
        with pytest.raises(LogError, match="expected the tables and indexes of an Esper log, got"):
            opening(RUN)


def test_what_the_user_analyzed_is_still_its_own(tmp_path: Path) -> None:
    with Directory(tmp_path).create(RUN) as run:
        run.append(RECORDS[:10])
    with closing(sqlite3.connect(tmp_path / RUN / RUN_FILE)) as connection, connection:
        connection.execute("ANALYZE")
    Directory(tmp_path).resume(RUN).close()


def test_an_observed_file_with_a_trigger_is_refused(tmp_path: Path) -> None:
    Observed(tmp_path, RUN).close()
    with closing(sqlite3.connect(tmp_path / OBSERVED_FILE)) as connection:
        connection.execute("CREATE TRIGGER forget AFTER INSERT ON derived BEGIN DELETE FROM derived; END")
    with pytest.raises(LogError, match="got trigger 'forget' beside them"):
        Observed(tmp_path, RUN)
    with pytest.raises(LogError, match="got trigger 'forget' beside them"):
        check_observed(tmp_path, RUN)


def test_a_run_is_not_made_in_what_is_a_link(tmp_path: Path) -> None:
    log = Directory(tmp_path / "runs", create=True)
    (tmp_path / "users").mkdir()
    (log.path / RUN).symlink_to(tmp_path / "users")
    with pytest.raises(LogError, match="expected a folder, got a link"):
        log.create(RUN)
    assert not list((tmp_path / "users").iterdir())


@pytest.mark.parametrize("name", ["a b?c#d%41", "new\nline", "%2e%2e", "é"])
def test_a_log_may_have_any_name_in_utf8(tmp_path: Path, name: str) -> None:
    log = Directory(f"/{tmp_path}/{name}", create=True)
    with log.create(RUN) as run:
        run.append(RECORDS[:10])
    seal(log)
    with log.open(RUN) as run:
        assert run.read().records == RECORDS[:10]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"caf\\udce9.*: expected a path in UTF-8"):
        Directory(tmp_path / "caf\udce9", create=True)
    assert not list(tmp_path.iterdir())


def test_nothing_is_derived_into_a_link_that_leads_to_no_run(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / RUN).symlink_to(tmp_path / "users")
    with pytest.raises(LogError, match="got a link to one without its log"):
        Observed(tmp_path / RUN, RUN)
    assert not list((tmp_path / "users").iterdir())
