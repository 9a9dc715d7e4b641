"""Going on here with a run of another machine: its records come from Kafka, its checkpoints from a folder that this machine can read.

First the run is copied and everything is checked that can be, while the other machine may still train it. Then it is claimed: from there on
nothing more of the other machine's is on Kafka, so what is copied now is the whole run. What follows is an ordinary resume.
"""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from esper.errors import DataError, LogError, SettingsError
from esper.events.envelope import RunId, is_training
from esper.events.kinds.run import RunStarted
from esper.history.resume import log_flag
from esper.kafka.cluster import KafkaSettings
from esper.kafka.copying.claims import Claim, take_over
from esper.kafka.copying.mirroring import Mirror, runs_on
from esper.kafka.copying.shipping import BRIDGED_FILE
from esper.kafka.event_loop import run_kafka_loop
from esper.oona.contract import Position
from esper.oona.directory import Directory, resolve_among
from esper.oona.file import MIRRORED_MARK, OBSERVED_FILE, OBSERVED_MARK, RUN_FILE, read_mark, write_mark
from esper.oona.gone import TopicEnd
from esper.oona.mirrored import MirroredRun
from esper.processes.train import resume_point, run_started
from esper.tolaria.checkpoints import verify_checkpoint


def take_run_over(
    settings: KafkaSettings,
    directory: Directory,
    text: str,
    checkpoints: Path,
    *,
    require: Callable[[RunId, RunStarted], None],
    report: Callable[[str], None],
) -> RunId:
    """The run that `text` means on the cluster, claimed and copied into `directory`, where it can be resumed now.

    `checkpoints` is its folder of checkpoints, or a log's directory with the run in it. `require` raises for a run that cannot be resumed:
    nothing is claimed then. Raises LogError and RuleError for a run that is not there, has finished, or stands in `directory` already.
    """
    if not checkpoints.is_dir():
        raise SettingsError(f"expected the run's checkpoints in {checkpoints}, got {'a file' if checkpoints.exists() else 'nothing'}")
    return run_kafka_loop(_take_run_over(settings, directory, text, checkpoints, require=require, report=report))


async def _take_run_over(
    settings: KafkaSettings,
    directory: Directory,
    text: str,
    checkpoints: Path,
    *,
    require: Callable[[RunId, RunStarted], None],
    report: Callable[[str], None],
) -> RunId:
    names = sorted((run for run in await runs_on(settings) if is_training(run)), reverse=True)
    run = resolve_among(text, names, f"Kafka at {settings.bootstrap}")
    _require_absent(directory, run)
    await _copy(settings, directory, run)
    with directory.open(run) as log:
        require(run, run_started(log))
    if read_mark(directory.path / run) is not None:
        raise LogError(f"run {run} is finished: expected a run that can go on; its copy stands in {directory.path / run}")
    claim = await take_over(settings, directory, run)
    await _copy(settings, directory, run)
    records = _complete(directory, run, claim)
    report(f"run {run} is taken over: {records:,} records are copied from Kafka at {settings.bootstrap}")
    _copy_checkpoint(directory, run, checkpoints / run / "checkpoints" if (checkpoints / run).is_dir() else checkpoints, report)
    return run


def _require_absent(directory: Directory, run: RunId) -> None:
    """Raises LogError for a run that stands in the directory already, but for one whose copying was interrupted."""
    folder = directory.path / run
    if directory.has_log(run) and not (folder / MIRRORED_MARK).exists():
        here = f"esper resume {run[-6:]}{log_flag(directory.path)} --kafka ..."
        raise LogError(f"run {run} stands in {directory.path} already: go on there with {here}, or name another directory with --into")


async def _copy(settings: KafkaSettings, directory: Directory, run: RunId) -> None:
    """Copies what is on Kafka of the run now."""
    mirror = Mirror(settings, directory, frozenset({run}))
    await mirror.run(asyncio.Event(), until_caught_up=True)
    if run in mirror.state.refused:
        raise LogError(f"run {run} cannot be copied from Kafka at {settings.bootstrap}: {mirror.state.refused[run]}")


def _complete(directory: Directory, run: RunId, claim: Claim) -> int:
    """Makes the copy a log that can go on behind the record that the claim names; its number of records."""
    folder = directory.path / run
    ends = [TopicEnd(topic, tail.sequence, tail.chain, tail.epoch, tail.step) for topic, tail in claim.tails.items()]
    with directory.open(run) as log:
        writer = log.writer
    with MirroredRun(folder, run, writer) as copy:
        copy.learn_ends(ends, claim.row, claim.moment)
        if copy.heads.row != claim.row:
            raise LogError(f"run {run}: expected {claim.row} records on Kafka, as its claim says, got {copy.heads.row}")
    write_mark(folder / BRIDGED_FILE, Position.at(RUN_FILE, claim.row).to_text())
    # What workers derived stays on Kafka: the folder is like that of the machine before, for an observer that may be started on it.
    for name in (OBSERVED_FILE, f"{OBSERVED_FILE}-wal", f"{OBSERVED_FILE}-shm", OBSERVED_MARK):
        (folder / name).unlink(missing_ok=True)
    return claim.row


def _copy_checkpoint(directory: Directory, run: RunId, source: Path, report: Callable[[str], None]) -> None:
    """Copies the newest whole checkpoint that the log names. Without one the run begins again from its first epoch."""
    target = directory.checkpoints(run)
    with directory.open(run) as log:
        saved, _, problems = resume_point(log, source)
    for problem in problems:
        report(f"skipped: {problem}")
    if saved is None:
        report(f"no whole checkpoint in {source}: the run is trained again from its first epoch, and takes the decisions in its log")
        return
    draft = target / f".{saved.checkpoint}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(source / saved.checkpoint, draft)
        shutil.rmtree(target / saved.checkpoint, ignore_errors=True)
        draft.rename(target / saved.checkpoint)
        verify_checkpoint(target, saved.checkpoint, saved.digest)
    except (OSError, shutil.Error, DataError) as error:
        raise LogError(f"cannot copy checkpoint {source / saved.checkpoint} to {target}: {error}; try again") from error
    report(f"checkpoint {saved.checkpoint} is copied from {source}")
