"""Other people's tools read the topics: kcat shows headers, the SDK of CloudEvents decodes records, librdkafka agrees where a key lives."""

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat

from esper.events.cloudevents import HEADERS
from esper.events.envelope import Record, written_time
from esper.events.topics import RUN
from esper.kafka.clients import Outgoing, producing
from esper.kafka.cluster_topics import INPUTS
from esper.kafka.copying.shipping import Bridge
from esper.kafka.transactions import transact
from esper.oona.directory import Directory
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import log_of, run_of, write_resumed_run

pytestmark = pytest.mark.kafka
needs_kcat = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed")

_WITHIN_S = 60
OURS = run_of(1)


@pytest.fixture
def shipped(cluster: Cluster, tmp_path: Path) -> tuple[Cluster, dict[str, Record]]:
    """A cluster with a resumed run, traces and heartbeats in it, and the run's records by id."""
    directory = Directory(tmp_path)
    write_resumed_run(directory, OURS)
    asyncio.run(Bridge(directory, cluster.settings).run(asyncio.Event(), drain=True))
    return cluster, {record.id: record for record in log_of(directory, OURS)}


def kcat(*words: str, typed: str = "") -> str:
    """The output of kcat."""
    ended = subprocess.run(["kcat", *words], input=typed, text=True, capture_output=True, timeout=_WITHIN_S, check=True)
    return ended.stdout


@needs_kcat
def test_kcat_shows_every_record_of_a_topic_with_its_headers(shipped: tuple[Cluster, dict[str, Record]]) -> None:
    cluster, logged = shipped
    settings = cluster.settings
    lines = kcat("-b", settings.bootstrap, "-C", "-e", "-q", "-J", "-X", "isolation.level=read_committed", "-t", settings.topic(RUN))
    found = [json.loads(line) for line in lines.splitlines()]
    assert {message["key"] for message in found} == {OURS}
    told = [dict(zip(message["headers"][::2], message["headers"][1::2], strict=True)) for message in found]
    assert [headers["ce_id"] for headers in told] == [record.id for record in logged.values() if record.topic == RUN]
    assert all(headers["ce_source"] == f"/esper/{OURS}/{RUN}" and headers.keys() <= {*HEADERS, "row"} for headers in told)
    assert [message["payload"].encode() for message in found] == [record.data for record in logged.values() if record.topic == RUN]


def test_the_sdk_of_cloudevents_decodes_every_record_of_a_run(shipped: tuple[Cluster, dict[str, Record]]) -> None:
    cluster, logged = shipped
    messages = asyncio.run(cluster.messages(*INPUTS))
    assert len(messages) == len(logged)
    for message in messages:
        event = from_binary(KafkaMessage(dict(message.headers), message.key, message.value or b""), JSONFormat())
        record = logged[event.get_id()]
        assert (event.get_type(), event.get_source()) == (record.type, f"/esper/{OURS}/{record.topic}")
        moment = event.get_time()
        assert moment is not None
        assert written_time(moment) == written_time(record.time)
        assert event.get_extension("partitionkey") == event.get_extension("run") == OURS
        assert event.get_extension("moment") == str(record.moment)
        assert event.get_data() == json.loads(record.data)


@needs_kcat
def test_librdkafka_puts_a_key_into_the_partition_of_ours(cluster: Cluster) -> None:
    settings, keys = cluster.settings, [f"run-{number}" for number in range(40)]
    theirs, ours = settings.topic("validation.kernel.characterized"), settings.topic("innovation.field_reports")
    typed = "".join(f"{key}:x\n" for key in keys)
    kcat("-b", settings.bootstrap, "-P", "-t", theirs, "-K:", "-X", "partitioner=murmur2_random", typed=typed)

    async def produce() -> None:
        async with producing(settings, "interop") as producer:
            await transact(producer, settings, [Outgoing(ours, key.encode(), b"x", []) for key in keys])

    asyncio.run(produce())
    found = asyncio.run(cluster.messages("validation.kernel.characterized", "innovation.field_reports"))
    where = {topic: {message.key: message.partition for message in found if message.topic == topic} for topic in (theirs, ours)}
    assert len(where[ours]) == len(keys)
    assert where[theirs] == where[ours]
