"""Sealing: a finished run's file leaves WAL mode and gets a mark, and from then on is only ever read.

The mark, `<run>/sealed`, is made last, so whoever sees it may open the file as immutable. It carries the run's summary, so that a list
of runs opens no database.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import apsw
from pydantic import JsonValue

from esper.errors import DataError, LogError
from esper.events.codec import decode
from esper.events.envelope import Record, read_time, written_time
from esper.events.kinds.run import RunFinished, RunStarted
from esper.oona import file
from esper.oona.heads import Heads

LEAVE_WAL_S = 5.0
_RETRY_S = 0.05


def leave_wal(connection: apsw.Connection, path: Path) -> bool:
    """True once everything stands in the one file, durably; False when readers kept it open for five seconds."""
    deadline = time.monotonic() + LEAVE_WAL_S
    connection.set_busy_timeout(0)
    while True:
        try:
            connection.pragma("wal_checkpoint(truncate)")
            if connection.pragma("journal_mode", "delete") == "delete":
                return True
        except apsw.BusyError:
            pass
        except apsw.Error as error:
            raise LogError(f"cannot seal {path}: {error}") from error
        if time.monotonic() > deadline:
            return False
        time.sleep(_RETRY_S)


def write_mark(folder: Path, heads: Heads, first: Record, last: Record) -> None:
    """Makes the mark of the run that begins with `first` and ends with `last`, durably."""
    mark = _end_of(heads) | {"summary": _summary(first, last)}
    draft = folder / (file.SEAL_MARK + ".new")
    with file.explained(folder / file.SEAL_MARK, "write"):
        with draft.open("w") as target:
            json.dump(mark, target)
            target.flush()
            os.fsync(target.fileno())
        draft.rename(folder / file.SEAL_MARK)
        file.sync_folder(folder)


def _summary(first: Record, last: Record) -> dict[str, JsonValue]:
    """What a list of runs shows; of a run that is no training only that it has ended."""
    summary: dict[str, JsonValue] = {"status": "finished"}
    if last.type == RunFinished.KIND:
        began = decode(first)
        summary |= {"task": began.task if isinstance(began, RunStarted) else None, "epochs": last.epoch}
        summary |= decode(last).model_dump(mode="json", include={"parameters", "metrics"})
    return summary


def _end_of(heads: Heads) -> dict[str, JsonValue]:
    records = sum(head.sequence for head in heads.topics.values())
    return {"run": heads.run, "records": records, "moment": heads.moment, "ended": written_time(heads.time)}


def read_mark(folder: Path) -> str | None:
    """The mark's text, empty where it cannot be read; None for a run that is not sealed."""
    try:
        return (folder / file.SEAL_MARK).read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def require_end(folder: Path, heads: Heads) -> None:
    """Raises LogError where the run in `folder` is sealed, and its mark does not say that it ends as `heads` do."""
    mark, path = read_mark(folder), folder / file.SEAL_MARK
    said = {} if mark is None else _said(mark)
    for name, found in _end_of(heads).items():
        if mark is not None and said.get(name) != found:
            raise LogError(
                f"cannot trust run {folder.name}: expected {name} {found!r}, as its records have it, in its mark {path}, "
                f"got {said.get(name, 'nothing')!r}; restore the run from a copy or a mirror"
            )


def summary_of(mark: str) -> dict[str, JsonValue] | None:
    """The summary that the run was sealed with; None where the mark does not hold one."""
    summary = _said(mark).get("summary")
    return summary if isinstance(summary, dict) else None


def sealed_ago_s(folder: Path, now: datetime) -> float:
    """How long ago the run in `folder` ended, by its mark; infinity for a run that is not sealed, or whose mark does not say."""
    ended = _said(read_mark(folder) or "").get("ended")
    try:
        return (now - read_time(ended)).total_seconds() if isinstance(ended, str) else math.inf
    except DataError:
        return math.inf


def records_of(mark: str) -> int:
    """How many records the sealed file has; 0 where the mark does not say."""
    records = _said(mark).get("records")
    return records if isinstance(records, int) else 0


def _said(mark: str) -> dict[str, JsonValue]:
    """What a mark says; nothing where it is no mark any more."""
    try:
        said = json.loads(mark)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Raises LogError at its end when the mark is not the one that stood there at its start: what was read in between may be stale."""
    before = read_mark(folder)
    yield
    if read_mark(folder) != before or before is None:
        raise LogError(f"run {folder.name} was unsealed while it was read ({folder / file.SEAL_MARK} changed): read it again")
