"""One query through the door: what it gives, what is said when it gives nothing, and what it never outlives."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from pydantic import JsonValue, ValidationError

from esper.audit.door.confinement import landlock_version
from esper.audit.door.query import QueryLimits, query
from esper.errors import DataError, LimitError, RuleError
from tests.audit.door.stripped import stripped

pytestmark = pytest.mark.whole

ENDLESS = "WITH RECURSIVE a AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM a) SELECT max(x) FROM a"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("door") / "20260501.duckdb"
    with duckdb.connect(os.fspath(path)) as connection:
        connection.execute("CREATE TABLE epochs AS SELECT 'r' AS run, range AS epoch, 1 / (range + 1) AS train_loss FROM range(1000)")
        connection.execute("CREATE MACRO until(most) AS TABLE FROM epochs WHERE epoch <= most")
    return path


@pytest.fixture
def file(made: Path, tmp_path: Path) -> Path:
    """A copy of the test's own."""
    return Path(shutil.copy(made, tmp_path))


def test_it_gives_python_values(made: Path) -> None:
    answer = query(
        made, "SELECT 1, 1.5::DECIMAL(4, 2), 'x', NULL, [1, 2], MAP {'a': 1}, TIMESTAMPTZ '2026-05-01 12:00:00+02', 'NaN'::DOUBLE > 1"
    )
    assert answer.rows() == [(1, Decimal("1.50"), "x", None, [1, 2], {"a": 1}, datetime(2026, 5, 1, 10, tzinfo=UTC), True)]


def test_it_gives_columns_where_there_are_no_rows(made: Path) -> None:
    answer = query(made, "FROM until(-1)")
    assert (answer.arrow.column_names, answer.rows()) == (["run", "epoch", "train_loss"], [])


def test_columns_of_one_name_are_told_apart(made: Path) -> None:
    assert query(made, "SELECT 1 AS a, 2 AS a, 3 AS a_1").arrow.column_names == ["a", "a_1", "a_1_1"]


def test_parameters_are_values(made: Path) -> None:
    values: dict[str, JsonValue] = {"most": 1, "text": "'; DROP TABLE epochs"}
    assert query(made, "SELECT epoch, $text FROM until($most) ORDER BY epoch", parameters=values).rows() == [
        (0, "'; DROP TABLE epochs"),
        (1, "'; DROP TABLE epochs"),
    ]


def test_threads_ask_at_once(made: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda number: query(made, f"SELECT {number}").rows(), range(4))
        assert list(found) == [[(number,)] for number in range(4)]


def test_a_missing_table_is_answered_with_the_nearest(made: Path) -> None:
    with pytest.raises(RuleError, match=r"no table epoch, perhaps epochs; there are epochs \(line 2, column 6\)"):
        query(made, "SELECT *\nFROM epoch")


def test_a_missing_column_is_answered_with_the_nearest_and_all(made: Path) -> None:
    with pytest.raises(RuleError, match=r"no column loss, perhaps train_loss; epochs has run, epoch, train_loss") as raised:
        query(made, "SELECT 'é', loss FROM epochs")
    assert str(raised.value).endswith("\n  SELECT 'é', loss FROM epochs\n              ^")


def test_more_rows_than_the_limit_are_no_answer(made: Path) -> None:
    with pytest.raises(LimitError, match=r"at most 999 rows.*--limit rows=NUMBER"):
        query(made, "FROM epochs", limits=QueryLimits(rows=999))


def test_as_many_rows_as_the_limit_are_an_answer(made: Path) -> None:
    assert query(made, "FROM epochs", limits=QueryLimits(rows=1000)).arrow.num_rows == 1000


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError):
        QueryLimits(time_s=float("nan"))


class TestFile:
    def test_a_symbolic_link_in_its_place_is_refused(self, file: Path) -> None:
        moved = file.rename(file.with_name("other.duckdb"))
        file.symlink_to(moved)
        with pytest.raises(DataError, match="got: a symbolic link"):
            query(file, "SELECT 1")

    @pytest.mark.parametrize("ending", [".wal", ".wal.checkpoint", ".wal.recovery"])
    def test_a_write_ahead_log_beside_it_is_refused(self, file: Path, ending: str) -> None:
        file.with_name(file.name + ending).symlink_to("/nowhere")
        with pytest.raises(DataError, match="write-ahead log at"):
            query(file, "SELECT 1")

    @pytest.mark.skipif(landlock_version() == 0, reason="this kernel has no Landlock")
    def test_a_write_ahead_log_that_comes_later_cannot_be_read(self, file: Path) -> None:
        with duckdb.connect(os.fspath(file)) as connection:
            connection.execute("SET wal_autocheckpoint = '1GB'; PRAGMA disable_checkpoint_on_shutdown; DELETE FROM epochs")
        assert file.with_name(file.name + ".wal").stat().st_size > 0
        assert "Permission denied" in stripped(file, ["SELECT count(*) FROM epochs"])[0]

    def test_one_that_is_none_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x.duckdb").write_bytes(b"x" * 100_000)
        with pytest.raises(DataError, match=r"x\.duckdb"):
            query(tmp_path / "x.duckdb", "SELECT 1")

    def test_one_that_was_cut_is_refused(self, file: Path) -> None:
        os.truncate(file, file.stat().st_size // 2)
        with pytest.raises(DataError, match=file.name):
            query(file, "SELECT sum(train_loss) FROM epochs")

    def test_one_that_is_missing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="No such file"):
            query(tmp_path / "x.duckdb", "SELECT 1")

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no regular file"):
            query(tmp_path, "SELECT 1")

    def test_a_pipe_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.duckdb")
        with pytest.raises(DataError, match="no regular file"):
            query(tmp_path / "x.duckdb", "SELECT 1")

    def test_one_that_another_process_writes_is_refused(self, file: Path) -> None:
        code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            with pytest.raises(DataError):
                query(file, "SELECT 1")
            writer.kill()


class TestProcess:
    """What a query never outlives; the child is found as the child of the process that asks."""

    @pytest.fixture
    def asking(self, made: Path) -> Iterator[subprocess.Popen[bytes]]:
        code = "import sys, json; from pathlib import Path; from esper.audit.door.query import *; query(Path(sys.argv[1]), sys.argv[2],"
        code += " limits=QueryLimits(time_s=float(sys.argv[3])))"
        with subprocess.Popen([sys.executable, "-c", code, made, ENDLESS, "4"]) as process:
            yield process
            process.kill()

    def child_of(self, process: subprocess.Popen[bytes]) -> int:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (found := children.read_text().split()):
            assert process.poll() is None
        return int(found[0])

    def ended_after_s(self, child: int, most_s: float) -> float:
        began = time.monotonic()
        while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] not in "ZX":
            assert time.monotonic() < began + most_s
        return time.monotonic() - began

    def confined(self, child: int) -> None:
        """Waits until the child has given up its rights."""
        while "Max open files            0" not in Path(f"/proc/{child}/limits").read_text():
            pass

    def test_it_ends_with_the_process_that_asked(self, asking: subprocess.Popen[bytes]) -> None:
        child = self.child_of(asking)
        self.confined(child)
        asking.kill()
        assert self.ended_after_s(child, 10.0) < 1.0

    def test_it_ends_at_its_limit_though_nobody_ends_it(self, asking: subprocess.Popen[bytes]) -> None:
        child = self.child_of(asking)
        asking.send_signal(signal.SIGSTOP)
        assert self.ended_after_s(child, 10.0) < 6.0  # 4 s and a half, on a machine that may be busy.

    def test_it_has_no_environment_and_no_folder(self, asking: subprocess.Popen[bytes]) -> None:
        child = self.child_of(asking)
        self.confined(child)
        assert Path(f"/proc/{child}/environ").read_bytes() == b""
        assert Path(f"/proc/{child}/cwd").readlink().name.endswith("(deleted)")
