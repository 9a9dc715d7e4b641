"""Files that are replaced whole or not at all, and on the disk when a call returns: first their bytes, then their names. No link is
followed, for what has a name that is written here was not necessarily put there by Esper.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def new_file(path: Path) -> BinaryIO:
    """A new file at `path`, to be written. Another that had the name loses it, and is not touched."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def appended(path: Path) -> BinaryIO:
    """The file at `path`, made if need be, to be written at its end. Raises OSError for a link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    return os.fdopen(descriptor, "ab")


def rotated(path: Path, descriptors: Sequence[int], limit_bytes: int) -> None:
    """Begins the file at `path` anew where it holds `limit_bytes`: the old one is kept as `<name>.1`, the one before is lost.

    `descriptors` are those through which this process writes it; they lead to the new file then.
    """
    try:
        status, own = path.lstat(), [one for one in descriptors if os.path.sameopenfile(one, descriptors[0])]
    except OSError:
        return
    if status.st_size < limit_bytes or not own or not os.path.samestat(status, os.fstat(own[0])):
        return
    path.replace(path.with_name(f"{path.name}.1"))
    with appended(path) as file:
        for descriptor in own:
            os.dup2(file.fileno(), descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Writes `content` to a new file at `path`; its name is durable only after `sync_folder`."""
    with new_file(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Makes or replaces the file at `path`, whole or not at all, with its name. Several processes may do so at once."""
    replace_file(path, content, durably=True)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes, *, durably: bool = False) -> None:
    """Makes or replaces the file at `path`, whole or not at all; its bytes are on the disk only if `durably`, its name is not yet."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if durably:
            write_durably(draft, content)
        else:
            with new_file(draft) as file:
                file.write(content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Makes or replaces the folder at `path`, with `files` by name in it, whole or not at all; durable when it returns.

    The folder it stands in is made, the one above that has to be there. Raises OSError where a link has taken the place of one of the
    three. They are held by descriptors meanwhile: whoever moves or exchanges one of them leads nothing elsewhere. A process that is killed
    between two names may leave the old one as `.<name>.old`.
    """
    draft, old = f".{path.name}.partial", f".{path.name}.old"
    with _held(path.parent.parent) as above:
        with suppress(FileExistsError):
            os.mkdir(path.parent.name, dir_fd=above)
        os.fsync(above)
        with _held(path.parent.name, above) as folder:
            shutil.rmtree(draft, ignore_errors=True, dir_fd=folder)
            try:
                os.mkdir(draft, dir_fd=folder)
                with _held(draft, folder) as inside:
                    for name, content in files.items():
                        _write_new(name, content, inside)
                    os.fsync(inside)
                with suppress(FileNotFoundError), _held(path.name, folder):
                    shutil.rmtree(old, ignore_errors=True, dir_fd=folder)
                    os.rename(path.name, old, src_dir_fd=folder, dst_dir_fd=folder)
                os.rename(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except OSError:
                with suppress(OSError):  # Refused where the new one stands there, or the old one still does.
                    os.rename(old, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                shutil.rmtree(draft, ignore_errors=True, dir_fd=folder)
                raise
            shutil.rmtree(old, ignore_errors=True, dir_fd=folder)


def remove_folder(path: Path) -> None:
    """Removes the folder at `path`, or what may be removed of it; nothing where a link has taken the place of one of the three."""
    with suppress(OSError), _held(path.parent.parent) as above, _held(path.parent.name, above) as folder:
        shutil.rmtree(path.name, ignore_errors=True, dir_fd=folder)


@contextmanager
def _held(path: Path | str, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_new(name: str, content: bytes, folder: int) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Makes the names in folder `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
