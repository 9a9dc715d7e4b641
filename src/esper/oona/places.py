"""The files that a writer has open, each at the place where it opened it.

A file that is removed, moved or replaced while it is open takes everything that is written, and keeps nothing for whoever looks at its
place. SQLite does not look; a writer does, before it commits and after it. What is found once stays: nothing more is written, and SQLite
may not tidy up at the end, for what stands at the place then may be another's.
"""

import os
from contextlib import suppress
from pathlib import Path

import apsw

from esper.errors import LogError
from esper.oona import file

_Identity = tuple[int, int]


class Places:
    """A database in WAL mode, open as `connection`, and `lock`, its writer's, as they stand when this is made."""

    def __init__(self, connection: apsw.Connection, path: Path, lock: Path | None = None) -> None:
        with file.explained(path, "read"):
            connection.pragma("user_version")  # SQLite makes the WAL when it reads for the first time.
        self._connection = connection
        self._lock = None if lock is None else os.fspath(lock)
        names = [os.fspath(path), f"{path}-wal", f"{path}-shm", *([] if self._lock is None else [self._lock])]
        self._found = {name: _identity(name) for name in names}
        self._lost: str | None = None

    @property
    def lost(self) -> str | None:
        """The first file that is not where it was, at this look or one before; None where all are."""
        if self._lost is None:
            self._lost = next((name for name, found in self._found.items() if _identity(name) not in (found, _UNKNOWN)), None)
        return self._lost

    def require(self, doing: str) -> None:
        """Raises LogError where a file is not where it was: nothing is written from then on."""
        if (name := self.lost) is not None:
            raise LogError(f"cannot {doing} {next(iter(self._found))}: {name} was removed, moved or replaced while it was written")

    def close(self) -> None:
        """Closes the database.

        Of one that was not left in peace, what stands in a WAL that has lost its name is brought into the database first, unless another
        writer may be at it; and no name is removed that SQLite would take for its own.
        """
        if self.lost is not None:
            if self._lock is None or _identity(self._lock) == self._found[self._lock]:
                with suppress(apsw.Error):
                    self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        with suppress(apsw.Error):  # What was acknowledged is on the disk, and the next writer tidies up.
            self._connection.close()


_GONE: _Identity = (-1, -1)
_UNKNOWN: _Identity = (-2, -2)


def _identity(name: str) -> _Identity:
    try:
        status = os.lstat(name)
    except (FileNotFoundError, NotADirectoryError):
        return _GONE
    except OSError:
        return _UNKNOWN  # A permission is lost, or the disk is: what is open may be written all the same, and nothing says that it moved.
    return status.st_dev, status.st_ino
