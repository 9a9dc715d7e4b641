"""`esper prune`."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esper.errors import LogError
from esper.events.codec import decode
from esper.events.envelope import RunId
from esper.events.kinds.accountability import RunPruned
from esper.history.trail import trail_runs
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.file import KERNELS
from esper.oona.removal import remove_run
from tests.cli.conftest import Esper
from tests.synthetic import RUN, ticking, write_run
from tests.trails import held

NEW = RunId("01900000-0000-7000-8000-000000000002")
AGENT = RunId("machine:here:2026-01-01")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with an old run of March, a run of today, an old run of a machine, and two kernels."""
    directory = Directory(tmp_path / "runs", create=True)
    write_run(directory, until_epoch=1)
    write_run(directory, run=NEW, until_epoch=1, clock=ticking(datetime.now(UTC)))
    write_run(directory, run=AGENT, until_epoch=1, finish=False)
    (directory.path / KERNELS).mkdir()
    for name, age in (("old", timedelta(days=200)), ("new", timedelta())):
        path = directory.path / KERNELS / f"{name}.safetensors"
        path.write_bytes(bytes(100))
        at = (datetime.now(UTC) - age).timestamp()
        os.utime(path, (at, at))
    return directory.path


def names(log: Path) -> list[str]:
    return sorted(path.name for path in log.iterdir() if ":" not in path.name or path.name == AGENT)


def test_nothing_is_removed_before_it_is_asked_for(esper: Esper, log: Path) -> None:
    before = sorted(log.rglob("*[!ml]"))
    said = esper("prune", "--older-than", "24h", "--log", str(log))
    assert [line.rpartition(": ")[2] for line in said.lines[:-2]] == ["would be removed", "would be removed"]
    assert "--yes removes it" in said.lines[-1]
    assert sorted(log.rglob("*[!ml]")) == before  # Readers make shared memory and a WAL.


def test_what_is_old_is_removed_and_the_trail_says_so(esper: Esper, log: Path) -> None:
    assert esper("prune", "--older-than", "1d", "--yes", "--by", "Ada", "--log", str(log)).code == 0
    assert names(log) == [KERNELS, NEW]
    assert [path.name for path in (log / KERNELS).iterdir()] == ["new.safetensors"]
    directory = Directory(log)
    with directory.open(*trail_runs(directory)) as trail:
        events = [event for event in map(decode, trail.read().records) if isinstance(event, RunPruned)]
    assert [(event.about, event.task, event.by, event.why) for event in events] == [
        (RUN, "digits", "Ada", "older than 1d"),
        (AGENT, "digits", "Ada", "older than 1d"),
    ]
    assert events[0].records > 10
    assert events[0].size_bytes > 10_000


@pytest.mark.parametrize("kept", ["held", "tagged", "written", "link"])
def test_what_must_be_kept_stays(esper: Esper, log: Path, kept: str) -> None:
    directory, options = Directory(log), ["--keep-tag", "baseline"] if kept == "tagged" else []
    if kept == "held":
        append_to_trail(directory, [held(RUN)], lambda: datetime.now(UTC))
    elif kept == "tagged":
        mark = log / RUN / "sealed"
        said = json.loads(mark.read_text())
        said["summary"]["tags"] = ["baseline"]
        mark.write_text(json.dumps(said))
    elif kept == "written":
        (log / RUN / "sealed").unlink()
        writer = directory.resume(RUN)
    else:
        (log / RUN).rename(log.parent / "outside")
        (log / RUN).symlink_to(log.parent / "outside")
    said = esper("prune", "--older-than", "1d", "--yes", "--log", str(log), *options)
    assert (log / RUN / "run.sqlite").exists()
    assert said.code == (kept == "link")
    if kept == "written":
        writer.close()


def test_a_run_that_is_written_is_not_removed(log: Path) -> None:
    directory = Directory(log)
    with directory.resume(AGENT), pytest.raises(LogError, match="is being written"):
        remove_run(directory, AGENT)
    assert (log / AGENT).exists()


def test_an_age_that_is_none_is_refused(esper: Esper, log: Path) -> None:
    said = esper("prune", "--older-than", "90", "--log", str(log))
    assert "expected an age like 90d or 12h, got '90'" in said.err
