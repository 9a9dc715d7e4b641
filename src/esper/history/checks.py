"""Checks of a machine and of a log, one after another; nothing is changed, and torch is never imported.

A check that could not be made is unknown, never fine.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

import apsw

from esper.errors import EsperError
from esper.events.codec import decode
from esper.events.envelope import RunId, is_training
from esper.events.kinds.kernels import KernelCharacterized
from esper.events.topics import CHARACTERIZED
from esper.history.kernel_files import SUFFIX, check_kernel
from esper.history.resume import log_flag
from esper.history.run_checks import Diagnosis, check_run, check_strangers
from esper.history.run_list import summaries
from esper.oona.contract import records_of
from esper.oona.daily_run import AUDIT
from esper.oona.directory import Directory, file_system_of, refuse_network
from esper.oona.file import KERNELS

_PYTHON = (3, 11)
# Before it a WAL database can be corrupted when two connections write and checkpoint at once (sqlite.org, release log of 3.51.3).
_SQLITE = (3, 51, 3)
_LEAST_FREE_BYTES = 1_000_000_000
NEWEST = 20


def examine(log: Path, *, every_run: bool = False, option: str | None = None) -> Iterator[Diagnosis]:
    """Every check, one after another: the programs, then the log at `log`, its trail and
    kernels, and its runs (the newest 20, or every one).

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
        directory = Directory(log)
        yield from _others(directory, every_run)
        runs = [run for run in directory.names() if directory.has_log(run)]
        yield from _kernels(directory, runs if every_run else runs[:NEWEST])
        yield from check_strangers(directory)
        yield from _runs(directory, len(runs), every_run, log_flag(log) if option is None else option)


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


def _others(directory: Directory, every_run: bool) -> Iterator[Diagnosis]:
    """The answers about the runs that are no trainings, all of the trail and the newest others: one about each kind or bad run."""
    groups: dict[str, list[RunId]] = {}
    for run in directory.names(hidden=True):
        if not is_training(run) and directory.has_log(run):
            groups.setdefault(run.partition(":")[0], []).append(run)
    for kind, runs in groups.items():
        name = "trail" if kind == AUDIT else f"{kind} runs"
        records, damaged = 0, 0
        for run in runs if every_run or kind == AUDIT else runs[:NEWEST]:
            try:
                with directory.open(run) as log:
                    records += log.heads().row
            except EsperError as error:
                damaged += 1
                yield Diagnosis(name, "bad", str(error))
        if records and not damaged:
            yield Diagnosis(name, "ok", f"{records} records, every number and chain is right")


def _runs(directory: Directory, count: int, every_run: bool, option: str) -> Iterator[Diagnosis]:
    checked = 0
    for one in islice(summaries(directory), None if every_run else NEWEST):
        yield from check_run(directory, one, option)
        checked += 1
    if checked < count and not every_run:
        yield Diagnosis("runs", "unknown", f"{checked} of {count} were checked, the newest: --all checks every one")
    elif not checked:
        yield Diagnosis("runs", "ok", "none yet")


def _kernels(directory: Directory, runs: Iterable[RunId]) -> Iterator[Diagnosis]:
    """The answer about all kernels that runs share, or one about each that is damaged, or not as `runs` have it."""
    folder, wrong, sound = directory.path / KERNELS, 0, 0
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    recorded = dict(pair for run in runs for pair in _characterized(directory, run)) if paths else {}
    for path in paths:
        try:
            key, digest = check_kernel(path)
        except EsperError as error:
            found = Diagnosis("kernels", "bad", f"{error}; remove it: it is made again when it is needed")
        else:
            sound += 1
            if recorded.get(key, digest) == digest:
                continue
            found = Diagnosis(
                "kernels", "warning", f"{path} is not as a run of this log was given it: altered, or made by another processor"
            )
        wrong += 1
        yield found
    if sound and not wrong:
        yield Diagnosis("kernels", "ok", f"{sound}, each has the name and the digest of what is in it")


def _characterized(directory: Directory, run: RunId) -> Iterator[tuple[str, str]]:
    """Key and digest of the kernels of `run`; of one that cannot be read nothing, for its own check says so."""
    with suppress(EsperError), directory.open(run) as log:
        for record in records_of(log, frozenset({CHARACTERIZED})):
            if isinstance(event := decode(record), KernelCharacterized):
                yield event.key, event.kernel
