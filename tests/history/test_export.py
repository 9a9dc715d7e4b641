"""A run as JSON lines, verifiable as its log is."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.digests import chain
from esper.events.envelope import Record
from esper.events.topics import TOPICS
from esper.history.export import export, line_of
from esper.history.run_history import History


def read_back(line: bytes) -> Record:
    """The record in an exported line; the payload's bytes are cut out of the line, not made again."""
    fields = json.loads(line)
    start = line.index(b',"data":') + len(b',"data":')
    values = {
        **fields,
        "time": datetime.fromisoformat(fields["time"]),
        "chain": bytes.fromhex(fields["chain"]),
        "data": line[start:].rstrip(b"\n")[:-1],
    }
    return Record(**values)


def test_every_record_comes_back_as_it_stands_in_the_log(tmp_path: Path, history: History) -> None:
    exported = export(history, tmp_path / "out")
    lines = [line for name in exported.files for line in (tmp_path / "out" / name).read_bytes().splitlines()]
    assert sorted(map(read_back, lines), key=lambda record: record.moment) == list(history.records())


def test_an_export_s_chains_can_be_verified_without_the_log(tmp_path: Path, history: History) -> None:
    exported = export(history, tmp_path)
    for name in exported.files:
        previous = b""
        for line in (tmp_path / name).read_bytes().splitlines():
            record = read_back(line)
            previous = chain(record, previous)
            assert record.chain == previous


def test_there_is_one_file_per_topic_and_date(tmp_path: Path, history: History) -> None:
    exported = export(history, tmp_path)
    topics = {record.topic for record in history.records()}
    assert set(exported.files) == {f"{topic}.2026-03-01.jsonl" for topic in topics}
    assert {path.name for path in tmp_path.iterdir()} == set(exported.files)
    assert topics <= set(TOPICS)


def test_the_counts_are_those_of_the_run(tmp_path: Path, history: History) -> None:
    exported = export(history, tmp_path)
    assert (exported.records, exported.moment) == (233, 233)


def test_an_export_over_an_older_one_is_refused(tmp_path: Path, history: History) -> None:
    export(history, tmp_path)
    with pytest.raises(LogError, match=r"expected no \.jsonl files there yet; name another folder"):
        export(history, tmp_path)


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path, history: History) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LogError, match=r"cannot export to .*file"):
        export(history, tmp_path / "file")


def test_an_absent_value_is_null_in_a_line(history: History) -> None:
    first = next(history.records())
    assert json.loads(line_of(first))["cause"] is None
