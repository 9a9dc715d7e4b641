"""Checkpoints as their files are now. Names come from a log that may have been altered: no path and no link is followed."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from esper.errors import DataError
from esper.events.digests import checkpoint_digest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LARGEST_MANIFEST = 256 << 20


def digest_of_files(folder: Path, name: str) -> tuple[str | None, str | None]:
    """The digest of the files of checkpoint `name` in `folder`, or the reason why there is none."""
    if not _NAME.fullmatch(name):
        return None, f"expected a checkpoint's name, got {name!r:.80}"
    try:
        with _opened(folder / name / "manifest.json") as file:
            manifest = file.read(_LARGEST_MANIFEST)
        with _opened(folder / name / "tensors.safetensors") as file:
            return checkpoint_digest(manifest, hashlib.file_digest(file, "sha256").hexdigest()), None
    except (OSError, DataError) as error:
        return None, getattr(error, "strerror", None) or str(error)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """The plain file at `path`. Raises OSError for a link or anything else there, its folder included."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataError(f"expected a file, got something else: {path.name}")
        yield file
