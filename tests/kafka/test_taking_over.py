"""A run goes on on another machine: from Kafka and the checkpoints, to the same end; and the machine before ends with the reason."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.cli.main import main
from esper.errors import LogError, SettingsError, UnknownRunError
from esper.events.envelope import RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunFinished, RunResumed
from esper.events.topics import TELEMETRY
from esper.kafka.copying.shipping import BRIDGED_FILE, bridged_to
from esper.oona.contract import START, records_between
from esper.oona.directory import Directory
from esper.oona.file import fenced_by
from esper.processes.bridge import bridge_of
from tests.api.fitted import fit
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import log_of
from tests.kafka.shipped import MIDDLE, WITHIN_S, address_of, end_bridge, settle, wait_until_shipped
from tests.recipes import Acting, BurstError, burst, events
from tests.waiting import until

pytestmark = pytest.mark.kafka

QUIET = Acting(0, burst)
"""The data of every training here, without anything that happens."""


@pytest.fixture
def here(tmp_path: Path, cluster: Cluster) -> Iterator[Path]:
    """The directory of the machine before."""
    (tmp_path / "here").mkdir()
    yield settle(tmp_path / "here", cluster)
    end_bridge(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path, cluster: Cluster) -> Iterator[Path]:
    """The directory of the machine that takes over."""
    (tmp_path / "there").mkdir()
    yield settle(tmp_path / "there", cluster)
    end_bridge(tmp_path / "there")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> RunFinished:
    """The end of the same training without interruption."""
    log = tmp_path_factory.mktemp("alone")
    return events(Directory(log), fit(log, train=QUIET).run, RunFinished)[0]


def interrupted(here: Path, cluster: Cluster) -> RunId:
    """A run that fails in the middle, and is shipped up to there."""
    with pytest.raises(BurstError):
        fit(here, kafka=address_of(cluster), train=Acting(MIDDLE, burst))
    (run,) = Directory(here).names()
    wait_until_shipped(cluster, Directory(here), run)
    end_bridge(here)
    return run


def go_on(there: Path, cluster: Cluster, run: RunId, checkpoints: Path) -> RunFinished:
    """The end of the run, resumed there."""
    result = fit(there, kafka=address_of(cluster), resume=run[-6:], checkpoints=checkpoints, train=QUIET)
    assert result.run == run
    wait_until_shipped(cluster, Directory(there), run)
    (finished,) = events(Directory(there), run, RunFinished)
    return finished


def assert_same(finished: RunFinished, expected: RunFinished) -> None:
    assert (finished.model_digest, finished.metrics) == (expected.model_digest, expected.metrics)


def test_a_run_goes_on_from_kafka_and_its_checkpoints_to_the_same_end(
    here: Path, there: Path, cluster: Cluster, expected: RunFinished, capfd: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(here, cluster)
    before = log_of(Directory(here), run)
    assert_same(go_on(there, cluster, run, here), expected)
    assert log_of(Directory(there), run)[: len(before)] == before
    (resumed,) = events(Directory(there), run, RunResumed)
    assert resumed.checkpoint is not None
    said = capfd.readouterr().err
    assert f"run {run} is taken over: {len(before):,} records are copied from Kafka" in said
    assert f"checkpoint {resumed.checkpoint} is copied from {here / run / 'checkpoints'}" in said


def test_without_a_whole_checkpoint_the_run_is_trained_again_with_its_decisions(
    here: Path, there: Path, cluster: Cluster, expected: RunFinished, capfd: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(here, cluster)
    empty = here.parent / "empty"
    empty.mkdir()
    assert_same(go_on(there, cluster, run, empty), expected)
    said = capfd.readouterr().err
    assert f"skipped: checkpoint {empty / 'epoch-000000'}: expected manifest.json and tensors.safetensors, whole" in said
    assert f"no whole checkpoint in {empty}: the run is trained again from its first epoch" in said


def test_telemetry_that_kafka_has_deleted_hinders_nothing(here: Path, there: Path, cluster: Cluster, expected: RunFinished) -> None:
    run = interrupted(here, cluster)
    last = {record.topic: record.sequence or 0 for record in log_of(Directory(here), run)}
    for topic in TELEMETRY:
        asyncio.run(cluster.cut(topic, sys.maxsize))
    result = fit(there, kafka=address_of(cluster), resume=run, checkpoints=here, train=QUIET)
    assert_same(events(Directory(there), run, RunFinished)[0], expected)
    own = log_of(Directory(there), run)
    first = {record.topic: record.sequence for record in reversed(own) if record.topic in TELEMETRY}
    assert first == {topic: last.get(topic, 0) + 1 for topic in first}
    assert first
    until(lambda: (there / run / BRIDGED_FILE).exists() and bridge_of(there) is not None, "nothing was shipped")
    assert result.run == run


@pytest.mark.parametrize("told", ["nothing", "a log in a directory", "no checkpoints"])
def test_what_cannot_be_taken_over_is_refused_and_nothing_is_claimed(here: Path, there: Path, cluster: Cluster, told: str) -> None:
    run = interrupted(here, cluster)
    address = address_of(cluster)
    refused: dict[str, tuple[type[Exception], str, dict[str, object]]] = {
        "nothing": (SettingsError, "expected the run's checkpoints in .*nowhere, got nothing", {"checkpoints": there / "nowhere"}),
        "a log in a directory": (LogError, "stands in .* already: go on there with esper resume", {"log": here, "checkpoints": here}),
        "no checkpoints": (SettingsError, "expected kafka= and resume= with it", {"kafka": None, "checkpoints": here}),
    }
    kind, message, more = refused[told]
    with pytest.raises(kind, match=message):
        fit(**{"log": there, "kafka": address, "resume": run, **more})  # type: ignore[arg-type]
    with pytest.raises(UnknownRunError, match="no run begins or ends with 'zzz' in Kafka at"):
        fit(there, kafka=address, resume="zzz", checkpoints=here)
    assert fenced_by(here / run) is None


def test_a_finished_run_is_not_taken_over(here: Path, there: Path, cluster: Cluster) -> None:
    result = fit(here, kafka=address_of(cluster))
    wait_until_shipped(cluster, Directory(here), result.run)
    with pytest.raises(LogError, match="is finished: expected a run that can go on"):
        fit(there, kafka=address_of(cluster), resume=result.run, checkpoints=here)


def test_a_machine_that_wakes_up_finds_its_run_taken_over(here: Path, there: Path, cluster: Cluster) -> None:
    """As people type it, with the trainer and its bridge frozen in the middle of a training."""
    train = ["train", "digits", "--epochs", "100000", "--set", "trainer.checkpoint_every=1", "--set", "trainer.keep_checkpoints=1000"]
    with esper(*train, "--kafka", address_of(cluster), "--log", os.fspath(here)) as trainer:
        until(lambda: _shipped_epochs(here) >= 1, "no epoch was shipped")
        (run,) = Directory(here).names()
        frozen = (trainer.pid, bridge_of(here) or 0)
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        before = _shipped_epochs(here)
        log = ["--log", address_of(cluster), "--checkpoints", os.fspath(here), "--into", os.fspath(there)]
        with esper("resume", run[-6:], *log) as second:
            until(lambda: _shipped_epochs(there) >= before + 2, "the run did not go on")
            for process in frozen:
                os.kill(process, signal.SIGCONT)
            said = trainer.communicate(timeout=WITHIN_S)[1]
            second.terminate()
            assert second.wait(WITHIN_S) == 130
    assert trainer.returncode == 1
    assert f"run {run} was taken over by " in said
    assert f":{there} on " in said
    assert main(["resume", run[-6:], "--log", os.fspath(here)]) == 1
    wait_until_shipped(cluster, Directory(there), run)


@contextmanager
def esper(*words: str) -> Iterator["subprocess.Popen[str]"]:
    """The command, killed at the end where it still runs."""
    command = [sys.executable, "-m", "esper.cli", *words]
    with subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _shipped_epochs(log: Path) -> int:
    """Number of epochs of the one run in `log` that are on Kafka."""
    directory = Directory(log)
    for run in directory.names():
        position = bridged_to(log / run)
        if position is not None:
            with directory.open(run) as opened:
                return sum(record.type == EpochCompleted.KIND for record in records_between(opened, START, position))
    return 0
