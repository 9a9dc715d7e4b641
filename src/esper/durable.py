"""Files that are on the disk when a call returns: first their bytes, then their names."""

import os
from pathlib import Path


def write_durably(path: Path, content: bytes) -> None:
    """Writes `content` to the file at `path`; its name is durable only after `sync_folder`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Makes or replaces the file at `path`, whole or not at all, with its name. Several processes may do so at once."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_durably(draft, content)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Makes the names in folder `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
