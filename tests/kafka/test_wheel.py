"""The wheel in an environment of its own, without the checkout."""

import asyncio
import os
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from tests.kafka.ledgers.test_ledger import DERIVED, assert_same, expected
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import run_of
from tests.kafka.test_worker import wait_for
from tests.synthetic import write_run

pytestmark = pytest.mark.kafka

_CHECKOUT = Path(__file__).parents[2]
_STOP_S = 25.0


@pytest.fixture(scope="module")
def esper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment that has the wheel, what it needs for Kafka, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(_CHECKOUT)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "environment")
    command = folder / "environment" / "bin"
    subprocess.run([*pip, "--python", str(command / "python"), "install", f"{wheel}[kafka]"], check=True)
    return command / "esper"


def test_the_wheel_ships_a_directory_and_runs_a_worker(esper: Path, cluster: Cluster, tmp_path: Path) -> None:
    directory, settings = Directory(tmp_path / "log", create=True), cluster.settings
    for number in (1, 2):
        write_run(directory, run=run_of(number))
    (tmp_path / "log" / "kafka.toml").write_text(f'prefix = "{settings.prefix}"\npartitions = {settings.partitions}\nreplication = 1\n')
    log = ["--kafka", f"kafka://{settings.bootstrap}", "--log", str(tmp_path / "log")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([esper, "bridge", "--drain", *log], check=True, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    with subprocess.Popen([esper, "worker", *log], cwd=tmp_path, env=environment, start_new_session=True) as worker:
        try:
            wait_for(cluster, directory)
            worker.terminate()
            assert worker.wait(_STOP_S) == 0
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
    assert_same(asyncio.run(cluster.records(*DERIVED)), expected(directory, directory.names()))
