"""Trainings that are shipped to Kafka: the same training, which waits for nothing, and ends where its run goes on elsewhere."""

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.errors import LogError, SettingsError
from esper.events.kinds.run import RunFailed, RunFinished
from esper.kafka.cluster_topics import INPUTS
from esper.kafka.copying.claims import take_over
from esper.kafka.copying.shipping import BRIDGED_FILE
from esper.oona.directory import Directory
from esper.oona.file import fenced_by
from esper.processes.bridge import bridge_of
from tests.api.fitted import fit
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import log_of
from tests.kafka.shipped import MIDDLE, address_of, end_bridge, settle, wait_for_bridge, wait_until_shipped
from tests.recipes import Acting, events
from tests.waiting import until

pytestmark = pytest.mark.kafka

NOBODY = "kafka://127.0.0.1:1"


@pytest.fixture
def log(tmp_path: Path, cluster: Cluster) -> Iterator[Path]:
    """The directory of a log, with the settings of the cluster. A bridge that runs at the end is ended."""
    yield settle(tmp_path, cluster)
    end_bridge(tmp_path)


def test_a_run_is_shipped_and_is_the_same_as_without_kafka(log: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    alone = tmp_path_factory.mktemp("alone")
    expected, result = fit(alone), fit(log, kafka=address_of(cluster))
    wait_until_shipped(cluster, Directory(log), result.run)
    ends = [events(Directory(path), one.run, RunFinished)[0] for path, one in ((alone, expected), (log, result))]
    assert ends[0].model_digest == ends[1].model_digest
    assert ends[0].metrics == ends[1].metrics
    assert not (log / "observer.log").exists()


def test_a_second_training_leaves_shipping_to_the_bridge_that_runs(log: Path, cluster: Cluster) -> None:
    first = fit(log, kafka=address_of(cluster))
    process = wait_for_bridge(log)
    second = fit(log, kafka=address_of(cluster))
    for result in (first, second):
        wait_until_shipped(cluster, Directory(log), result.run)
    assert bridge_of(log) == process


def test_a_bridge_that_is_killed_is_started_again(log: Path, cluster: Cluster) -> None:
    def kill() -> None:
        killed = wait_for_bridge(log)
        os.kill(killed, signal.SIGKILL)
        until(lambda: bridge_of(log) not in {None, killed}, "no second bridge began")

    result = fit(log, kafka=address_of(cluster), train=Acting(MIDDLE, kill))
    wait_until_shipped(cluster, Directory(log), result.run)


def test_training_does_not_wait_for_a_cluster_that_is_away(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        result = fit(tmp_path, kafka=NOBODY)
        process = wait_for_bridge(tmp_path)
        assert (
            f"{len(log_of(Directory(tmp_path), result.run)):,} records of the run wait for Kafka at 127.0.0.1:1" in capfd.readouterr().err
        )
        assert process != os.getpid()
    finally:
        end_bridge(tmp_path)


@pytest.mark.parametrize(
    ("address", "settings", "message"),
    [
        ("localhost:9092", "", "expected kafka://host:port, got 'localhost:9092'"),
        ("kafka://localhost", "", "expected host:port"),
        ("kafka://u:p@localhost:9092", "", "an address with a user or password in it"),
        (NOBODY, "partition = 3\n", "partition"),
        (NOBODY, 'security = "sasl_ssl"\nusername = "u"\npassword_env = "ESPER_NO_SUCH_VARIABLE"\n', "ESPER_NO_SUCH_VARIABLE"),
    ],
)
def test_a_mistake_is_refused_before_anything_begins(tmp_path: Path, address: str, settings: str, message: str) -> None:
    (tmp_path / "kafka.toml").write_text(settings)
    with pytest.raises(SettingsError, match=message):
        fit(tmp_path, kafka=address)
    assert [path.name for path in tmp_path.iterdir()] == ["kafka.toml"]


def test_a_cluster_without_topics_is_refused(kafka: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kafka.toml").write_text(f'prefix = "n{uuid.uuid4().hex[:8]}."\n')
    assert main(["train", "digits", "--kafka", f"kafka://{kafka}", "--log", str(tmp_path)]) == 1
    assert "make or check them: esper topics create" in capsys.readouterr().err
    assert Directory(tmp_path).names(hidden=True) == []


def test_a_directory_is_shipped_to_one_cluster_at_a_time(log: Path, cluster: Cluster) -> None:
    fit(log, kafka=address_of(cluster))
    process = wait_for_bridge(log)
    with pytest.raises(SettingsError, match=f"got a bridge to {cluster.settings.bootstrap}: end process {process} first"):
        fit(log, kafka=NOBODY)


def test_a_trainer_whose_run_is_taken_over_ends_with_the_reason(
    log: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere, directory = Directory(tmp_path_factory.mktemp("elsewhere")), Directory(log)

    def take() -> None:
        (run,) = directory.names()
        until((log / run / BRIDGED_FILE).exists, "nothing was shipped")
        asyncio.run(take_over(cluster.settings, elsewhere, run))
        until(lambda: fenced_by(log / run) is not None, "the bridge did not notice")

    with pytest.raises(LogError, match=rf"was taken over by .*:{elsewhere.path} on .*; this training ends here"):
        fit(log, kafka=address_of(cluster), train=Acting(MIDDLE, take))
    (run,) = directory.names()
    assert "was taken over by" in events(directory, run, RunFailed)[0].error
    with directory.open(run) as checked:
        assert checked.heads().moment > 0
    on_kafka = asyncio.run(cluster.records(*INPUTS))
    assert RunFailed.KIND not in {record.type for record in on_kafka}
