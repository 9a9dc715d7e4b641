"""A run as JSON lines: one file per topic and date, each record's payload byte for byte as it was written.

A line is one JSON object: the envelope's fields by name (`time` in ISO 8601 with a Z, `chain` in hex) and `data`, the payload. With the
chain in it an export can be verified as the log can.
"""

import json
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

from esper.errors import LogError
from esper.events.envelope import Record, RunId, written_time
from esper.history.run_history import History


class _Exported(NamedTuple):
    """An export: its folder, and the number of records by file name."""

    run: RunId
    folder: Path
    files: dict[str, int]
    records: int
    moment: int


def line_of(record: Record) -> bytes:
    """`record` as one JSON line without its newline."""
    envelope = record._asdict() | {"time": written_time(record.time), "chain": None if record.chain is None else record.chain.hex()}
    del envelope["data"]
    return json.dumps(envelope, separators=(",", ":")).encode()[:-1] + b',"data":' + record.data + b"}"


def export(history: History, folder: Path) -> _Exported:
    """Writes the run's records into `folder`/<topic>.<date>.jsonl; every file is whole and on disk when it returns.

    A live run is exported up to what was on disk when the reading reached it. Files are written under a temporary name and renamed at the
    end, so a broken export leaves no file that looks whole. Raises LogError where the folder holds an export already or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob("*.jsonl")):
            raise LogError(f"cannot export to {folder}: expected no .jsonl files there yet; name another folder with --out")
        return _write(history, folder)
    except OSError as error:
        raise LogError(f"cannot export to {folder}: {error.strerror or error}") from error


def _write(history: History, folder: Path) -> _Exported:
    counts: Counter[str] = Counter()
    files: dict[str, BinaryIO] = {}
    moment = 0
    with ExitStack() as stack:
        for record in history.records():
            name = f"{record.topic}.{record.time:%Y-%m-%d}.jsonl"
            if name not in files:
                files[name] = stack.enter_context((folder / f".{name}.partial").open("wb"))
            files[name].write(line_of(record) + b"\n")
            counts[name] += 1
            moment = max(moment, record.moment)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    for name in files:
        (folder / f".{name}.partial").rename(folder / name)
    return _Exported(history.run, folder, dict(counts), counts.total(), moment)
