"""Checks of a machine and of a log, one after another; nothing is changed, and torch is never imported.

A check that could not be made is unknown, never fine.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import apsw

from esper.errors import EsperError, LogError
from esper.history.resume import log_flag, resume_hint
from esper.history.run_list import RunSummary, summaries
from esper.history.trail import trail_runs
from esper.oona.contract import START, Position
from esper.oona.directory import Directory, file_system_of, refuse_network
from esper.oona.file import CHECKPOINTS, read_refused
from esper.oona.observed import check_observed, observed_to
from esper.oona.run_log import RESTORE, RunLog

_Verdict = Literal["ok", "warning", "bad", "unknown"]
_PYTHON = (3, 11)
# Before it a WAL database can be corrupted when two connections write and checkpoint at once (sqlite.org, release log of 3.51.3).
_SQLITE = (3, 51, 3)
_LEAST_FREE_BYTES = 1_000_000_000
NEWEST = 20


class Diagnosis(NamedTuple):
    """A question and its answer: `bad` stops work, `warning` may."""

    name: str
    verdict: _Verdict
    answer: str


def examine(log: Path, *, every_run: bool = False, option: str | None = None) -> Iterator[Diagnosis]:
    """Every check, one after another: the programs, then the log at `log`, its trail, and its runs (the newest 20, or every one).

    `option` is the `--log` option for next commands, with a space before it, where that is not `log`.
    """
    python, sqlite = sys.version_info[:3], apsw.sqlite_lib_version()
    yield _version("python", python, _PYTHON, ".".join(map(str, python)))
    found = f"{sqlite} (apsw {apsw.apsw_version()})"
    yield _version("sqlite", tuple(map(int, sqlite.split("."))), _SQLITE, found, advice=": pip install --upgrade apsw")
    yield _torch()
    try:
        exists = log.exists()
    except OSError as error:
        yield Diagnosis("log", "bad", f"{log} cannot be looked at: {error.strerror}")
        return
    place = [_disk(log), _writable(log)] if exists else [_absent(log)]
    yield from place
    yield _free(log)
    if exists and all(check.verdict != "bad" for check in place):
        yield from _trail(Directory(log))
        yield from _runs(log, every_run, log_flag(log) if option is None else option)


def _version(name: str, found: tuple[int, ...], least: tuple[int, ...], words: str, advice: str = "") -> Diagnosis:
    if found >= least:
        return Diagnosis(name, "ok", words)
    return Diagnosis(name, "bad", f"expected {'.'.join(map(str, least))} or newer, got {words}{advice}")


def _torch() -> Diagnosis:
    try:
        return Diagnosis("torch", "ok", version("torch"))
    except PackageNotFoundError:
        return Diagnosis("torch", "warning", 'not installed: reading works, training needs pip install "esper-training[train]"')


def _absent(log: Path) -> Diagnosis:
    parent = next(folder for folder in log.absolute().parents if folder.exists())
    if os.access(parent, os.W_OK):
        return Diagnosis("log", "ok", f"{log} does not exist yet; the first run makes it")
    return Diagnosis("log", "bad", f"{log} does not exist, and {parent} may not be written: name another with --log")


def _writable(log: Path) -> Diagnosis:
    try:
        with tempfile.TemporaryFile(dir=log, prefix=".doctor-") as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if log.is_dir() and os.access(log, os.R_OK | os.X_OK):
            return Diagnosis(
                "log", "warning", f"{log} cannot be written: {error.strerror}; its runs can be read, and no other can be added"
            )
        return Diagnosis("log", "bad", f"{log} cannot be used: {error.strerror}")
    return Diagnosis("log", "ok", f"{log} can be written")


def _disk(log: Path) -> Diagnosis:
    kind = file_system_of(log)
    if not kind:
        return Diagnosis("disk", "unknown", "this system does not say what it is: a log needs a local one")
    try:
        refuse_network(log)
    except EsperError as error:
        return Diagnosis("disk", "bad", str(error))
    return Diagnosis("disk", "ok", f"local, {kind}")


def _free(log: Path) -> Diagnosis:
    folder = next(folder for folder in (log.absolute(), *log.absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    words = f"{free / 1e9:.1f} GB"
    if free >= _LEAST_FREE_BYTES:
        return Diagnosis("free space", "ok", words)
    return Diagnosis("free space", "warning", f"{words}: a full disk stops training; what was acknowledged stays readable")


def _trail(directory: Directory) -> Iterator[Diagnosis]:
    """The answer about all runs of the trail, or one about each that is damaged; none where there is no trail."""
    records, damaged = 0, 0
    for run in trail_runs(directory):
        try:
            with directory.open(run) as log:
                records += log.heads().row
        except EsperError as error:
            damaged += 1
            yield Diagnosis("trail", "bad", str(error))
    if records and not damaged:
        yield Diagnosis("trail", "ok", f"{records} records, every number and chain is right")


def _runs(log: Path, every_run: bool, option: str) -> Iterator[Diagnosis]:
    directory = Directory(log)
    count, checked = len(directory.names()), 0
    for one in islice(summaries(directory), None if every_run else NEWEST):
        yield _run(directory, one, option)
        checked += 1
    if checked < count and not every_run:
        yield Diagnosis("runs", "unknown", f"{checked} of {count} were checked, the newest: --all checks every one")
    elif not checked:
        yield Diagnosis("runs", "ok", "none yet")


def _run(directory: Directory, one: RunSummary, option: str) -> Diagnosis:
    name = f"run {one.run[-6:]}"
    refused = read_refused(directory.path / one.run)
    if problem := one.problem or refused:
        return Diagnosis(name, "bad", problem)
    folder = directory.path / one.run
    try:
        check_observed(folder, one.run)
        observed = observed_to(folder)  # Before the log, which goes on.
        with directory.open(one.run) as log:
            if log.run != one.run:
                raise LogError(f"expected run {one.run} in {log.path}, got {log.run}: name the directory so, or move a copy out of the log")
            heads = log.heads()
            _require_witnessed(folder, log, observed)
    except EsperError as error:
        return Diagnosis(name, "bad", str(error))
    onward = resume_hint(one.run, one.task, option)
    words = f"{heads.row - heads.gone.count} records, every number and chain is right"
    if heads.gone:
        words = f"{words}; {heads.gone.words()}"
    match one.standing:
        case "live":
            return Diagnosis(name, "ok", f"{words}; {'another machine' if one.holder is None else f'process {one.holder}'} writes it")
        case "interrupted":
            return Diagnosis(name, "warning", f"{words}; interrupted in epoch {heads.epoch}: {onward}")
        case "finished" if not one.sealed:
            advice = f"finished but not sealed, which an observer does: esper observe{option}"
            return Diagnosis(name, "warning", f"{words}; {advice}")
        case standing:
            return Diagnosis(name, "warning" if heads.gone else "ok", f"{words}; {standing}")


def _require_witnessed(folder: Path, log: RunLog, observed: Position) -> None:
    """Raises LogError where what stands beside a log knows of records that are missing at its end, which no chain shows."""
    end = log.end()
    if missing := observed.records_since(end):
        raise LogError(f"cannot trust {folder}: the log ends {missing} records before the one that was observed last; {RESTORE}")
    checkpoints = folder / CHECKPOINTS
    if not end.records_since(START) and checkpoints.is_dir() and any(checkpoints.iterdir()):
        raise LogError(f"cannot trust {folder}: expected the records of what is in {checkpoints}, got an empty log; {RESTORE}")
