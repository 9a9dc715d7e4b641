"""The commands read a log on Kafka as they read a directory."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from esper.cli.main import main
from esper.events.topics import STEPS
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.file import RUN_FILE
from esper.state_files import MIRROR_STATE, read_state
from tests.kafka.copying.test_mirroring import ship
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import LAST_EPOCH, go_on, log_of, run_of, write_resumed_run
from tests.synthetic import write_run
from tests.waiting import until

pytestmark = pytest.mark.kafka

FIRST, SECOND = run_of(1), run_of(2)
WITHIN_S = 60.0


class Said(NamedTuple):
    code: int
    out: str
    err: str


Typed = Callable[..., Said]


class Shipped(NamedTuple):
    """A log on Kafka, the directory that it was shipped from, and a directory for its mirror, which has its kafka.toml."""

    address: str
    directory: Directory
    mirror: Path
    cluster: Cluster


@pytest.fixture(scope="module")
def shipped(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """A finished run, and one that was resumed and interrupted."""
    folder = tmp_path_factory.mktemp("shipped")
    cluster = Cluster.make(kafka)
    directory = Directory(folder / "log", create=True)
    write_run(directory, run=FIRST)
    write_resumed_run(directory, SECOND)
    ship(cluster, directory)
    return Shipped(f"kafka://{kafka}", directory, mirror_for(cluster, folder / "mirror"), cluster)


def mirror_for(cluster: Cluster, folder: Path) -> Path:
    folder.mkdir()
    (folder / "kafka.toml").write_text(f'prefix = "{cluster.settings.prefix}"\n')
    return folder


@pytest.fixture
def esper(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """Types `esper ARGUMENTS...`."""
    for name in ("ESPER_LOG", "ESPER_KAFKA", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def typed(*arguments: object) -> Said:
        code = main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        # Only a slow machine is told that it takes a while.
        return Said(code, out, "".join(line for line in err.splitlines(keepends=True) if "copying what is new" not in line))

    return typed


@pytest.mark.parametrize(
    "command",
    [["runs"], ["show", FIRST], ["show", FIRST, "--json"], ["show", "latest"], ["log", FIRST[-6:]], ["replay", SECOND, "--digest"],
     ["log", FIRST, "--topic", "heartbeat", "--format", "jsonl"], ["log", FIRST, "--follow"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_writes_what_it_writes_for_the_directory(esper: Typed, shipped: Shipped, command: list[str]) -> None:
    local = esper(*command, "--log", shipped.directory.path)
    remote = esper(*command, "--log", shipped.address, "--mirror", shipped.mirror)
    told = f"--log {shipped.address} --mirror {shipped.mirror}"
    assert remote == local._replace(out=local.out.replace(f"--log {shipped.directory.path}", told))
    assert remote.code == 0


def test_an_export_is_the_directory_s_byte_for_byte(esper: Typed, shipped: Shipped, tmp_path: Path) -> None:
    for name, log in (("a", ["--log", shipped.directory.path]), ("b", ["--log", shipped.address, "--mirror", shipped.mirror])):
        assert esper("export", FIRST, "--format", "jsonl", "--out", tmp_path / name, *log).code == 0
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_doctor_checks_the_cluster_and_the_runs(esper: Typed, shipped: Shipped) -> None:
    said = esper("doctor", "--log", shipped.address, "--mirror", shipped.mirror)
    assert "answers" in said.out
    assert said.out.count("every number and chain is right") == 2
    assert f"esper resume {SECOND[-6:]} --log {shipped.address} --mirror {shipped.mirror}" in said.out
    assert "topic" in said.out  # Replication is 1 in the test's cluster; kafka.toml says nothing of it.


def test_the_environment_may_name_a_log_on_kafka_and_the_cache_holds_its_mirror(
    esper: Typed, shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_LOG", shipped.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "kafka.toml").write_text(f'prefix = "{shipped.cluster.settings.prefix}"\n')
    assert esper("show", SECOND).code == 0
    [mirror] = (tmp_path / "cache" / "esper" / "mirror").iterdir()
    assert Directory(mirror).names() == [SECOND]
    assert shipped.cluster.settings.prefix in mirror.name


def test_what_cannot_be_read_is_said_with_its_place(esper: Typed, shipped: Shipped, tmp_path: Path) -> None:
    on_kafka = ("--log", shipped.address, "--mirror", shipped.mirror)
    said = esper("show", "nothing-like-it", *on_kafka)
    assert (said.code, f"in Kafka at {shipped.cluster.settings.bootstrap}; there are: " in said.err) == (1, True)
    said = esper("show", run_of(9), *on_kafka)
    assert f"expected run {run_of(9)} on Kafka at {shipped.cluster.settings.bootstrap}, got none" in said.err
    said = esper("runs", "--log", shipped.address, "--mirror", tmp_path / "empty")
    assert "expected topic system.events.run and " in said.err
    assert "esper topics create" in said.err
    said = esper("runs", "--log", "kafka://127.0.0.1:1", "--mirror", tmp_path / "none")
    assert "Kafka at 127.0.0.1:1: expected a broker" in said.err
    said = esper("runs", "--log", "kafka://nonsense", "--mirror", tmp_path / "none")
    assert "expected host:port" in said.err
    said = esper("runs", "--log", shipped.directory.path, "--mirror", tmp_path / "none")
    assert "--mirror: expected a log on Kafka" in said.err


@pytest.mark.parametrize("command", [["observe"], ["agent"], ["rebuild"], ["train", "digits"], ["alerts", "rules"]], ids=" ".join)
def test_a_command_that_writes_needs_a_directory(esper: Typed, shipped: Shipped, command: list[str]) -> None:
    said = esper(*command, "--log", shipped.address)
    assert said.code == 1
    assert f"expected a directory as the log, got {shipped.address}" in said.err


def test_what_is_gone_is_said_by_show_doctor_and_export(esper: Typed, kafka: str, tmp_path: Path) -> None:
    cluster, directory = Cluster.make(kafka), Directory(tmp_path / "log", create=True)
    write_run(directory, run=FIRST)
    ship(cluster, directory)
    asyncio.run(cluster.cut(STEPS, 6))
    on_kafka = ("--log", f"kafka://{kafka}", "--mirror", mirror_for(cluster, tmp_path / "mirror"))
    gone = "telemetry records are gone, deleted by Kafka's retention before they were copied: telemetry.training.steps sequences 1 to "
    assert gone in " ".join(esper("show", FIRST, *on_kafka).out.split())
    assert json.loads(esper("show", FIRST, "--json", *on_kafka).out)["gone"][0]["topic"] == STEPS
    assert gone in " ".join(esper("doctor", *on_kafka).out.split())
    assert gone in esper("export", FIRST, "--format", "jsonl", "--out", tmp_path / "out", *on_kafka).err
    assert (
        esper("replay", FIRST, "--digest", *on_kafka).out.splitlines()[-1]
        == (esper("replay", FIRST, "--digest", "--log", directory.path).out.splitlines()[-1])
    )


def test_a_run_is_followed_from_kafka_to_its_end(esper: Typed, kafka: str, tmp_path: Path) -> None:
    cluster, directory = Cluster.make(kafka), Directory(tmp_path / "log", create=True)
    write_run(directory, run=FIRST, until_epoch=2, finish=False)
    ship(cluster, directory)
    on_kafka = ("--log", f"kafka://{kafka}", "--mirror", mirror_for(cluster, tmp_path / "mirror"))

    def finish() -> None:
        until((tmp_path / "mirror" / FIRST / RUN_FILE).exists)
        with directory.resume(FIRST) as log, Emitter(log, FIRST, clock=lambda: datetime.now(UTC)) as emitter:
            emitter.fail("error", "ended by the test", where="here", epoch=2, step=200)
        ship(cluster, directory)

    thread = threading.Thread(target=finish)
    thread.start()
    said = esper("log", FIRST, "--follow", "--format", "jsonl", *on_kafka)
    thread.join()
    assert len(said.out.splitlines()) == len(log_of(directory, FIRST))
    assert "ended by the test" in said.out.splitlines()[-1]


@pytest.fixture
def follower(shipped: Shipped) -> Iterator["subprocess.Popen[str]"]:
    """A process that fills the mirror for good."""
    command = [sys.executable, "-m", "esper.cli", "mirror", "--log", shipped.address, "--mirror", str(shipped.mirror)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_process_fills_the_mirror_for_good_and_commands_read_what_it_wrote(
    esper: Typed, shipped: Shipped, follower: "subprocess.Popen[str]"
) -> None:
    until(
        lambda: (
            read_state(shipped.mirror / MIRROR_STATE).get("pid") == follower.pid
            and read_state(shipped.mirror / MIRROR_STATE)["caught_up_at"] is not None
        )
    )
    go_on(shipped.directory, SECOND, LAST_EPOCH + 2, resumed=False)
    ship(shipped.cluster, shipped.directory)
    said = esper("log", SECOND, "--format", "jsonl", "--log", shipped.address, "--mirror", shipped.mirror)
    assert len(said.out.splitlines()) == len(log_of(shipped.directory, SECOND))
    state = read_state(shipped.mirror / MIRROR_STATE)
    assert (state["behind"], state["error"], state["stuck"], state["refused"]) == (0, None, None, {})
    follower.send_signal(signal.SIGTERM)
    out, _ = follower.communicate(timeout=WITHIN_S)
    assert follower.returncode == 0
    assert "caught up: everything that is on Kafka is in" in out


def test_sql_gives_the_same_rows_of_a_log_on_kafka_as_of_the_directory(esper: Typed, shipped: Shipped) -> None:
    asked = ("sql", "SELECT * EXCLUDE (file, row) FROM events ORDER BY run, moment, id", "--format", "csv")
    here = esper(*asked, "--log", shipped.directory.path)
    there = esper(*asked, "--log", shipped.address, "--mirror", shipped.mirror)
    assert (here.code, there.code) == (0, 0)
    assert there.out == here.out
    assert len(here.out.splitlines()) > 200


def test_checks_of_a_run_on_kafka_find_what_those_of_the_directory_find(esper: Typed, shipped: Shipped) -> None:
    asked = ("compliance", FIRST, "--format", "csv", "--check", "log.chain", "--check", "log.sequence", "--check", "decision.thresholds")
    here = esper(*asked, "--log", shipped.directory.path)
    there = esper(*asked, "--log", shipped.address, "--mirror", shipped.mirror)
    assert there.out == here.out
    assert (here.code, there.code) == (0, 0)
    assert "is not recorded" in there.err
    assert "is not recorded" not in here.err
