"""Removal of what a log may do without: runs go whole, each after the fact that says so is durable in the trail; kernels are made again.

A run that is written, held, or of which something cannot be told, stays. Nothing here follows a link.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from esper.errors import LogError
from esper.events.envelope import RunId
from esper.oona.directory import Directory
from esper.oona.file import KERNELS, WRITER_LOCK, explained
from esper.oona.lock import Lock

_REMOVED = ".pruned-"


def disk_size(path: Path) -> int:
    """The bytes that a file, or all files in a folder, take."""
    with explained(path, "look at"):
        return sum(one.lstat().st_size for one in (path, *path.rglob("*")) if not one.is_dir() or one.is_symlink())


def old_kernels(directory: Directory, before: float) -> Iterator[Path]:
    """The files of kernels that were written before that time, drafts that a killed process left included."""
    folder = directory.path / KERNELS
    if folder.is_dir() and not folder.is_symlink():
        yield from (path for path in sorted(folder.iterdir()) if not path.is_dir() and path.lstat().st_mtime < before)


def remove_run(directory: Directory, run: RunId) -> None:
    """Removes the folder of `run`: at once from every list, then from the disk. Raises LogError for one that a process writes."""
    folder = directory.path / run
    if folder.is_symlink() or not folder.is_dir():
        raise LogError(f"cannot remove {folder}: expected a folder, got {'a link' if folder.is_symlink() else 'nothing'}")
    gone = directory.path / f"{_REMOVED}{run}"
    lock = Lock(folder / WRITER_LOCK, f"run {run}")
    try:
        with explained(folder, "remove"):
            folder.rename(gone)
            shutil.rmtree(gone)
    finally:
        lock.release()


def remove_rest(directory: Directory) -> None:
    """Removes what a process left that was killed while it removed a run."""
    for path in directory.path.glob(f"{_REMOVED}*"):
        if path.is_dir() and not path.is_symlink():
            with explained(path, "remove"):
                shutil.rmtree(path)
