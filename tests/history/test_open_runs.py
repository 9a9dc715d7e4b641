"""Runs that are kept open: a run that is asked about can end and be sealed, few files stay open, threads take turns, faults are told."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from esper.errors import AmbiguousRunError, LogError, UnknownRunError
from esper.events.envelope import RunId
from esper.events.kinds.run import RunFinished
from esper.history.open_runs import MOST_OPEN, OpenRuns
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
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


def test_few_runs_are_kept_open_however_many_are_asked_about(tmp_path: Path) -> None:
    directory = Directory(tmp_path)  # Nobody follows it: what is open is what was asked about.
    open_runs = OpenRuns(directory)
    runs = [numbered(number) for number in range(MOST_OPEN + 8)]
    for run in runs:
        directory.create(run).close()
    for run in runs:
        with open_runs.use(run) as opened:
            assert opened.history.state.run == run
    open_now = [file for file in open_files() if file.startswith(str(tmp_path))]
    assert len({Path(file).parent for file in open_now}) == MOST_OPEN
    open_runs.close()
    assert [file for file in open_files() if file.startswith(str(tmp_path))] == []


def test_many_threads_may_ask_about_one_run(served: Client) -> None:
    open_runs, directory = served.service.runs, served.service.directory
    run = write_run(directory, run=numbered(900), telemetry=False, until_epoch=4, finish=False)
    with directory.open(run) as log:
        last = log.last()[0].moment
    moments = [last - number for number in range(12)]

    def digest_at(moment: int) -> str:
        with open_runs.use(run) as opened:
            return opened.history.digest(moment)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(digest_at, moments))
    assert together == [digest_at(moment) for moment in moments]


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
        runs = client.service.run_list
        assert [runs.resolve(ref) for ref in ("0190aaaa-1", "0190aaaa", "-2", "latest")] == [
            "0190aaaa-1",
            "0190aaaa-1",
            "0190aaab-2",
            "0190aaab-2",
        ]
        with pytest.raises(AmbiguousRunError):
            runs.resolve("0190")
        assert client.get("/api/v1/runs/0190").status == 409
        with pytest.raises(UnknownRunError):
            runs.resolve("0191")


def test_a_moment_beyond_the_end_says_how_far_the_run_goes(served: Client) -> None:
    run = write_run(served.service.directory, run=numbered(902), telemetry=False)
    answer = served.get(f"/api/v1/runs/{run}/state?at={10**9}")
    assert (answer.status, answer.json["type"]) == (404, "urn:esper:problem:moment-not-reached")
    assert answer.json["detail"].startswith("expected a moment from 0 to ")


def test_a_run_that_was_deleted_is_gone(served: Client) -> None:
    directory, open_runs = served.service.directory, served.service.runs
    run = write_run(directory, run=numbered(903), telemetry=False)
    with open_runs.use(run) as opened:
        assert opened.history.state.run == run
    open_runs.release(run)
    for file in (directory.path / run).iterdir():
        file.unlink() if file.is_file() else file.rmdir()
    (directory.path / run).rmdir()
    with pytest.raises(LogError), open_runs.use(run) as opened:
        opened.history.digest()
