"""A frame is taken as it is by whatever speaks Arrow's PyCapsule interface."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from esper.errors import RuleError, SettingsError
from esper.history.frame import Frame, frame_of
from esper.history.run_history import History, open_run
from tests.synthetic import EPOCHS
from tests.synthetic import STEPS as STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def history(synthetic_log: Path) -> Iterator[History]:
    with open_run("latest", synthetic_log) as opened:
        yield opened


def test_steps_epochs_and_health_have_short_names(history: History) -> None:
    steps, whole = history.frame("steps"), history.frame("telemetry.training.steps")
    assert (steps.columns.keys(), steps.columns["step"]) == (whole.columns.keys(), whole.columns["step"])
    assert len(history.frame("epochs")) == EPOCHS - 1  # One was rolled back.
    assert {"site", "health_score"} <= history.frame("health").columns.keys()


def test_arrow_takes_a_frame_by_its_own_interface(history: History) -> None:
    table = pa.table(history.frame("steps"))
    assert table.num_rows == EPOCHS * STEPS_PER_EPOCH - 3
    assert (table.schema.field("step").type, table.schema.field("loss").type) == (pa.int64(), pa.float64())
    assert table.schema.field("time").type == pa.timestamp("us", tz="UTC")
    assert table["loss"].to_pylist()[:3] == history.frame("steps").columns["loss"][:3]


def test_loss_that_is_nan_and_one_that_was_not_measured_are_not_the_same(history: History) -> None:
    losses = pa.table(history.frame("steps"))["loss"].to_pylist()
    assert sum(loss is not None and math.isnan(loss) for loss in losses) > 0
    assert pa.table(frame_of([{"a": None}, {"a": math.nan}]))["a"].null_count == 1


def test_duckdb_asks_a_frame_in_sql(history: History) -> None:
    epochs = history.frame("epochs")
    with duckdb.connect() as connection:
        connection.register("epochs", epochs)
        found = connection.execute('SELECT max(epoch), count("validation.loss") FROM epochs').fetchall()
    assert found == [(EPOCHS, EPOCHS - 1)]


@pytest.mark.parametrize("name", ["steps", "epochs", "health", "system.events.run", "system.events.lifecycle", "control.tamiyo.decisions"])
def test_every_column_has_an_arrow_form(history: History, name: str) -> None:
    frame = history.frame(name)
    assert pa.table(frame).num_rows == len(frame) > 0


def test_rows_of_several_kinds_share_their_columns() -> None:
    frame = frame_of([{"a": 1}, {"b": [1.0, 2.0]}, {"a": "x"}])
    assert frame.rows() == [{"a": 1, "b": None}, {"a": None, "b": [1.0, 2.0]}, {"a": "x", "b": None}]
    assert pa.table(frame)["a"].to_pylist() == ["1", None, "x"]


def test_empty_topic_is_an_empty_frame() -> None:
    assert (len(frame_of([])), pa.table(Frame({})).num_rows) == (0, 0)


def test_without_pyarrow_the_columns_are_there_and_arrow_says_what_is_missing(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = history.frame("steps")
    assert len(frame.columns["loss"]) == len(frame)
    with pytest.raises(SettingsError, match=r"pip install 'esper-training\[audit\]'; frame.columns"):
        frame.arrow()


def test_topic_that_there_is_not_is_refused(history: History) -> None:
    with pytest.raises(RuleError, match="expected a topic of the catalogue"):
        history.frame("losses")
