"""Checks of one run: its log, what an observer keeps beside it, its mark and its checkpoints; and of what stands among the runs of a log.

Of a run that is written now a fault counts only where it is found twice: its files change while they are looked at.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from esper.errors import EsperError, LogError
from esper.events.codec import decode
from esper.events.envelope import RunId
from esper.events.kinds.run import CheckpointPruned, CheckpointSaved
from esper.events.topics import RUN
from esper.history.resume import resume_hint
from esper.history.run_list import RunSummary
from esper.oona.checkpoint_files import digest_of_files
from esper.oona.contract import START, Position, records_of
from esper.oona.directory import Directory
from esper.oona.file import (
    CHECKPOINTS,
    MIRRORED_MARK,
    OBSERVED_FILE,
    OBSERVED_MARK,
    RESERVE,
    RUN_FILE,
    SEAL_MARK,
    WRITER_LOCK,
    fenced_by,
    read_refused,
)
from esper.oona.heads import Heads
from esper.oona.lock import holder_of, noted
from esper.oona.observed import check_observed, observed_to
from esper.oona.run_log import RESTORE, RunLog, require_acknowledged
from esper.words import plural

DoctorVerdict = Literal["ok", "warning", "bad", "unknown"]
_BEGINNING = re.compile(rf"{re.escape(RUN_FILE)}\.new(-journal)?|{WRITER_LOCK}|{RESERVE}")
_OF_A_RUN = frozenset({f"{RUN_FILE}-wal", f"{RUN_FILE}-shm", SEAL_MARK, OBSERVED_FILE, OBSERVED_MARK, CHECKPOINTS, MIRRORED_MARK})


class Diagnosis(NamedTuple):
    """A question and its answer: `bad` stops work, `warning` may."""

    name: str
    verdict: DoctorVerdict
    answer: str


def check_run(directory: Directory, one: RunSummary, option: str) -> Iterator[Diagnosis]:
    """The answer about a run, and one for each fault of its checkpoints. `option` is the `--log` option for next commands."""
    name, folder = f"run {one.run[-6:]}", directory.path / one.run
    if problem := one.problem or read_refused(folder):
        yield Diagnosis(name, "bad", problem)
        return
    try:
        check_observed(folder, one.run)
        # Before the log, which goes on.
        observed, acknowledged = observed_to(folder), noted(folder / WRITER_LOCK)
        with directory.open(one.run) as log:
            if log.run != one.run:
                raise LogError(f"expected run {one.run} in {log.path}, got {log.run}: name the directory so, or move a copy out of the log")
            heads = log.heads()
            _require_witnessed(folder, log, observed)
            require_acknowledged(folder, heads.row, acknowledged)
    except EsperError as error:
        yield Diagnosis(name, "bad", str(error))
        return
    words = f"{heads.row - heads.gone.count} records, every number and chain is right"
    if heads.gone:
        words = f"{words}; {heads.gone.words()}"
    verdict, standing = _standing(one, heads, option)
    yield Diagnosis(name, verdict, f"{words}; {standing}")
    if (reason := fenced_by(folder)) is not None:
        yield Diagnosis(name, "warning", f"{reason}; it may not go on here")
    if not (folder / MIRRORED_MARK).exists():  # Checkpoints are not copied from Kafka.
        yield from (Diagnosis(name, verdict, words) for verdict, words in _checkpoints(directory, one.run))


def _standing(one: RunSummary, heads: Heads, option: str) -> tuple[DoctorVerdict, str]:
    """The standing of the run, and the advice about it."""
    match one.standing:
        case "live":
            return "ok", f"{'another machine' if one.holder is None else f'process {one.holder}'} writes it"
        case "interrupted":
            return "warning", f"interrupted in epoch {heads.epoch}: {resume_hint(one.run, one.task, option)}"
        case "finished" if not one.sealed:
            return "warning", f"finished but not sealed, which an observer does: esper observe{option}"
        case standing:
            return "warning" if heads.gone else "ok", standing


def _require_witnessed(folder: Path, log: RunLog, observed: Position) -> None:
    """Raises LogError where what stands beside a log knows of records that are missing at its end, which no chain shows."""
    end = log.end()
    if missing := observed.records_since(end):
        raise LogError(f"cannot trust {folder}: the log ends {missing} records before the one that was observed last; {RESTORE}")
    checkpoints = folder / CHECKPOINTS
    if not end.records_since(START) and checkpoints.is_dir() and any(checkpoints.iterdir()):
        raise LogError(f"cannot trust {folder}: expected the records of what is in {checkpoints}, got an empty log; {RESTORE}")


def _checkpoints(directory: Directory, run: RunId) -> tuple[tuple[DoctorVerdict, str], ...]:
    """The faults of the checkpoints of `run`; of one that is being written those that are there at a second look too."""
    found = tuple(_faults(directory, run))
    if found and directory.is_live(run):
        again = set(_faults(directory, run))
        return tuple(one for one in found if one in again and "not in the log" not in one[1])
    return found


def _faults(directory: Directory, run: RunId) -> Iterator[tuple[DoctorVerdict, str]]:
    """A checkpoint that the log keeps and that is altered or gone, and what stands among them that the log does not have."""
    try:
        yield from _compared(directory, run)
    except (EsperError, OSError) as error:
        yield "bad", str(error)


def _compared(directory: Directory, run: RunId) -> Iterator[tuple[DoctorVerdict, str]]:
    folder, kept = directory.checkpoints(run), dict[str, str]()
    if folder.is_symlink():
        yield "bad", f"expected a folder at {folder}, got a link: Esper follows none in a run's folder"
        return
    with directory.open(run) as log:
        for record in records_of(log, frozenset({RUN})):
            event = decode(record)
            if isinstance(event, CheckpointSaved):
                kept[event.checkpoint] = event.digest
            elif isinstance(event, CheckpointPruned):
                kept.pop(event.checkpoint, None)
    there = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    if gone := [name for name in kept if name not in there]:
        yield (
            "warning",
            f"{plural(len(gone), 'checkpoint')} of {len(kept)} that its log keeps {_are(gone)} gone from {folder}: {_some(gone)}",
        )
    for name in sorted(kept.keys() & there):
        digest, problem = digest_of_files(folder, name)
        if problem is not None:
            yield "bad", f"checkpoint {folder / name} is damaged, and resuming passes it over: {problem}"
        elif digest != kept[name]:
            yield "bad", f"checkpoint {folder / name} was altered, and resuming passes it over: the log has another digest"
    if surplus := sorted(there - kept.keys()):
        yield "warning", f"{_some(surplus)} in {folder} {_are(surplus)} not in the log: left by a process that was killed, or put there"


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def check_strangers(directory: Directory) -> Iterator[Diagnosis]:
    """An answer about each folder of a log that is, was or could have been a run and is not one that is listed."""
    names = set(directory.names(hidden=True))
    for entry in sorted(os.scandir(directory.path), key=lambda one: one.name):
        folder = directory.path / entry.name
        if not entry.is_dir() or (entry.name in names and directory.entry(RunId(entry.name)) is not None):
            continue
        try:
            there = {one.name for one in os.scandir(folder)}
        except OSError as error:
            yield Diagnosis(f"run {entry.name[-6:]}", "bad", f"cannot open {folder}: {error.strerror}")
            continue
        if entry.name not in names:
            if RUN_FILE in there:
                yield Diagnosis(
                    f"run {entry.name[-6:]}", "warning", f"{folder} holds a run, and no command finds it by that name: move it out"
                )
        elif lost := sorted(_OF_A_RUN & there):
            what = f"expected a log at {folder / RUN_FILE}, beside {', '.join(lost)}, got nothing; {RESTORE}"
            yield Diagnosis(f"run {entry.name[-6:]}", "bad", read_refused(folder) or what)
        elif all(map(_BEGINNING.fullmatch, there)) and holder_of(folder / WRITER_LOCK) is None:
            what = f"{folder} holds no record: its process was killed while it made the run; it may be removed"
            yield Diagnosis(f"run {entry.name[-6:]}", "warning", what)
