"""`esper topics` and `esper bridge`, as they are typed."""

import asyncio
import json
import uuid
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.events.topics import RUN
from esper.kafka.clients import administering
from esper.kafka.cluster_topics import CLAIMS, create_topics, wanted_topics
from esper.oona.directory import Directory
from esper.state_files import BRIDGE_STATE
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import log_of, run_of
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka


def settle(folder: Path, prefix: str) -> None:
    """Writes kafka.toml."""
    (folder / "kafka.toml").write_text(f'prefix = "{prefix}"\npartitions = 2\nreplication = 1\n')


def test_topics_are_made_once_and_checked(kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settle(tmp_path, f"c{uuid.uuid4().hex[:12]}.")
    cluster = ["--kafka", f"kafka://{kafka}", "--log", str(tmp_path)]
    assert main(["topics", "check", *cluster]) == 1
    assert "expected it, got none" in capsys.readouterr().out
    assert main(["topics", "create", *cluster]) == 0
    count = len(list(wanted_topics(Cluster.make(kafka).settings)))
    assert f"{count} topics were made; all are as they must be, each with 2 partitions" in capsys.readouterr().out
    assert main(["topics", "create", *cluster]) == 0
    assert "0 topics were made" in capsys.readouterr().out
    assert main(["topics", "check", *cluster]) == 0


def test_a_bridge_drains_a_directory_and_writes_its_state(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = Directory(tmp_path)
    write_run(directory, run=run_of(1))
    settle(tmp_path, cluster.settings.prefix)
    assert main(["bridge", "--drain", "--kafka", f"kafka://{cluster.settings.bootstrap}", "--log", str(tmp_path)]) == 0
    assert "shipping" in capsys.readouterr().out
    state = json.loads((tmp_path / BRIDGE_STATE).read_text())
    assert (state["waiting"], state["away_since"], state["fenced"]) == ({}, None, [])
    assert len(log_of(directory, run_of(1))) > 100


def test_a_topic_that_was_made_anew_is_refused_until_its_claims_are_new_too(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = Directory(tmp_path)
    write_run(directory, run=run_of(1))
    settle(tmp_path, cluster.settings.prefix)
    command = ["bridge", "--drain", "--kafka", f"kafka://{cluster.settings.bootstrap}", "--log", str(tmp_path)]
    assert main(command) == 0

    async def make_anew(topic: str) -> None:
        async with administering(cluster.settings) as admin:
            await admin.delete_topics([cluster.settings.topic(topic)])
        await create_topics(cluster.settings)

    asyncio.run(make_anew(RUN))
    capsys.readouterr()
    assert main(command) == 1
    assert f"topic {cluster.settings.topic(RUN)} was made anew since {tmp_path} was shipped to it" in capsys.readouterr().err
    asyncio.run(make_anew(CLAIMS))
    assert main(command) == 0


@pytest.mark.parametrize("command", [["topics", "check"], ["bridge"], ["worker"]])
def test_a_cluster_must_be_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ESPER_KAFKA", raising=False)
    assert main([*command, "--log", str(tmp_path)]) == 1
    assert "expected a cluster as --kafka kafka://host:port, or in $ESPER_KAFKA, got none" in capsys.readouterr().err


def test_a_bridge_that_runs_already_is_named_by_its_process(cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from esper.oona.lock import Lock
    from esper.processes.bridge import BRIDGE_LOCK

    settle(tmp_path, cluster.settings.prefix)
    lock = Lock(tmp_path / BRIDGE_LOCK, "the test")
    try:
        assert main(["bridge", "--drain", "--kafka", f"kafka://{cluster.settings.bootstrap}", "--log", str(tmp_path)]) == 1
    finally:
        lock.release()
    assert "this process" in capsys.readouterr().err
