"""What Nissa shows of the processes that join its log with Kafka, by the files that these write."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from esper.nissa.kafka_status import KafkaStatus, read_kafka_status
from tests.nissa.server import serving


def write(folder: Path, name: str, **state: Any) -> None:
    (folder / name).write_text(json.dumps({"time": time.time(), "pid": 7} | state))


def test_the_bridge_of_a_directory_has_metrics(tmp_path: Path) -> None:
    write(tmp_path, "bridge.json", waiting={"a": 3, "b": 4}, away_since=12.5)
    with serving(tmp_path) as client:
        lines = client.get("/metrics").body.splitlines()
    assert b"esper_bridge_waiting_records 7.0" in lines
    assert b"esper_bridge_away_timestamp_seconds 12.5" in lines


def test_a_directory_without_kafka_has_none(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        body = client.get("/metrics").body
    assert b"esper_bridge" not in body
    assert b"esper_mirror" not in body


def test_a_bridge_that_stopped_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, "bridge.json", waiting={"a": 3}, away_since=None, time=time.time() - 60)
    (tmp_path / "delivery.json").write_text("{")
    assert read_kafka_status(tmp_path, mirrored=False) == KafkaStatus()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (None, "what is on Kafka has not been copied yet; no process copies it now"),
        ({"caught_up_at": None, "behind": 1200}, "what is on Kafka has not been copied yet; 1,200 messages are to be copied"),
        ({"caught_up_at": -100.0, "behind": 0, "error": "Kafka is away"}, "what is on Kafka was copied 100 s ago; Kafka is away"),
        ({"caught_up_at": -1.0, "behind": 3}, None),
    ],
)
def test_a_mirror_is_ready_once_it_has_caught_up_and_while_that_is_not_long_ago(
    tmp_path: Path, state: dict[str, Any] | None, reason: str | None
) -> None:
    with serving(tmp_path) as client:
        if state is not None:
            at = state["caught_up_at"]
            write(tmp_path, "mirror.json", **state | {"caught_up_at": None if at is None else time.time() + at})
        status = read_kafka_status(tmp_path, mirrored=True)
        client.service.metrics.kafka = lambda: status
        answer = client.get("/readyz")
    assert (answer.status, answer.json["reason"]) == (200 if reason is None else 503, reason)
