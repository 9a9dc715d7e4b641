"""A log as Nissa asks it: a run that is asked about can end and be sealed, few files stay open, threads take turns, faults are told."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.envelope import RunId
from esper.events.kinds.run import RunFinished
from esper.folds.run import digest
from esper.nissa.source import AmbiguousRunError, NotReachedError, UnknownRunError
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.processes.log_source import OPEN, LogSource
from tests.nissa.server import Client, serving
from tests.synthetic import started, ticking, write_run


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server over a log to which tests add runs."""
    with serving(tmp_path_factory.mktemp("log")) as client:
        yield client


def numbered(number: int) -> RunId:
    return RunId(f"01900000-0000-7000-8000-{number:012}")


def open_files() -> list[str]:
    """What this process has open; a descriptor may be gone before it is looked at."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(link))  # noqa: PTH115 - a Path would be resolved.
    return found


def test_a_run_that_is_asked_about_while_it_is_written_can_be_sealed(served: Client) -> None:
    directory, run = served.service.directory, RunId("01f00000-0000-7000-8000-000000000001")
    with directory.create(run) as log, Emitter(log, run, clock=ticking()) as emitter:
        emitter.emit(started(), epoch=0, step=0)
        emitter.commit()
        assert served.get(f"/api/v1/runs/{run}/state").json["status"] == "running"
        tails = emitter.tails(epoch=0, step=0)
        ended = RunFinished(metrics={}, model_digest="0" * 64, parameters=460, stopped_early=False, tails=tails)
        emitter.emit(ended, epoch=0, step=0)
        emitter.commit()
        assert served.get(f"/api/v1/runs/{run}/state").json["status"] == "finished"
        emitter.close(seal=True)
    entry = directory.entry(run)
    assert entry is not None
    assert entry.sealed
    assert served.get(f"/api/v1/runs/{run}/state").headers["cache-control"].endswith("immutable")


def test_few_runs_are_kept_open_however_many_are_asked_about(served: Client, tmp_path: Path) -> None:
    directory = Directory(tmp_path)  # Nobody follows it: what is open is what was asked about.
    source = LogSource(directory, following=served.service.following, record=lambda _samples: None)
    runs = [numbered(number) for number in range(OPEN + 8)]
    for run in runs:
        directory.create(run).close()
    for run in runs:
        assert source.known(run).state.run == run
    open_now = [file for file in open_files() if file.startswith(str(tmp_path))]
    assert len({Path(file).parent for file in open_now}) == OPEN
    source.close()
    assert [file for file in open_files() if file.startswith(str(tmp_path))] == []


def test_many_threads_may_ask_about_one_run(served: Client) -> None:
    source, directory = served.service.source, served.service.directory
    run = write_run(directory, run=numbered(900), telemetry=False, until_epoch=4, finish=False)
    with directory.open(run) as log:
        last = log.last()[0].moment
    moments = [last - number for number in range(12)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda moment: digest(source.state(run, moment)), moments))
    assert together == [digest(source.state(run, moment)) for moment in moments]


def test_a_run_that_cannot_be_read_is_a_fault_of_this_request_alone(served: Client) -> None:
    directory = served.service.directory
    run = write_run(directory, run=numbered(901), telemetry=False)
    (directory.path / run / "run.sqlite").write_bytes(b"no database at all")
    answer = served.get(f"/api/v1/runs/{run}/seeds")
    assert (answer.status, answer.json["type"]) == (503, "urn:esper:problem:log-unreadable")
    assert served.get("/healthz").status == 200
    [line] = [one for one in served.get("/api/v1/runs").json["runs"] if one["run"] == run]
    assert line["sealed"]


def test_references_are_whole_ids_beginnings_and_ends_that_only_one_has(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    for run in ("0190aaaa-1", "0190aaab-2"):
        directory.create(RunId(run)).close()
    with serving(tmp_path) as client:
        source = client.service.source
        assert [source.resolve(ref) for ref in ("0190aaaa-1", "0190aaaa", "-2", "latest")] == [
            "0190aaaa-1",
            "0190aaaa-1",
            "0190aaab-2",
            "0190aaab-2",
        ]
        with pytest.raises(AmbiguousRunError):
            source.resolve("0190")
        assert client.get("/api/v1/runs/0190").status == 409
        with pytest.raises(UnknownRunError):
            source.resolve("0191")


def test_a_moment_beyond_the_end_says_how_far_the_run_goes(served: Client) -> None:
    run = write_run(served.service.directory, run=numbered(902), telemetry=False)
    with pytest.raises(NotReachedError, match="expected a moment from 0 to"):
        served.service.source.state(run, 10**9)


def test_a_run_that_was_deleted_is_gone(served: Client) -> None:
    directory = served.service.directory
    run = write_run(directory, run=numbered(903), telemetry=False)
    assert served.service.source.known(run).state.run == run
    served.service.source.release(run)
    for file in (directory.path / run).iterdir():
        file.unlink() if file.is_file() else file.rmdir()
    (directory.path / run).rmdir()
    with pytest.raises(LogError):
        served.service.source.known(run)
