"""A record that stands in a log twice is read once; the second is kept with the reason."""

import sqlite3
from contextlib import closing

import pytest

from esper.audit.projection import Projection
from esper.oona.directory import Directory
from esper.oona.file import RUN_FILE
from tests.synthetic import RUN, write_run

pytestmark = pytest.mark.whole

AGAIN = "INSERT INTO records (topic, sequence, fact, moment, incarnation, type, time, epoch, step, cause, trace, chain, data) SELECT "
LAST = "FROM records WHERE row = (SELECT max(row) FROM records WHERE topic = 'control.tamiyo.decisions')"


@pytest.mark.parametrize(("changed", "why"), [("data", "applied before"), ("data || ' '", "written before with other bytes")])
def test_the_last_record_of_a_topic_again(changed: str, why: str, directory: Directory) -> None:
    write_run(directory, finish=False)
    with closing(sqlite3.connect(directory.path / RUN / RUN_FILE)) as connection, connection:
        columns = "topic, sequence, fact, moment, incarnation, type, time, epoch, step, cause, trace, chain"
        connection.execute(f"{AGAIN} {columns}, CAST({changed} AS BLOB) {LAST}")
        connection.execute(f"{AGAIN} {columns}, CAST({changed} AS BLOB) {LAST}")
    with Projection(directory) as projection:
        projection.refresh()
        found = projection.connection.execute("SELECT problem FROM events WHERE problem IS NOT NULL").fetchall()
    assert [problem.rpartition(": ")[2] for (problem,) in found] == [why, why]
