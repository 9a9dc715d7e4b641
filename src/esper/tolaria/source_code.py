"""The code that trains: its revision, its command line, and the source that a revision does not give. Secrets are masked in all of it.

Source is what version control does not have: the changes of a dirty tree, and the files of the user's own that it does not know, those that
this process has loaded. Installed packages are known by their versions.
"""

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from esper.events.kinds.run import Code
from esper.events.kinds.training_description import Source
from esper.masking import MASK, mask_arguments, mask_text

_GIT_WAIT_S = 5.0
_MOST_BYTES = 256 * 1024
_MOST_FILES = 64
_DIFF = ("diff", "HEAD", "--no-color", "--no-ext-diff", "--no-textconv")
# In files of other kinds a value needs no quotes.
_CODE_ENDINGS = frozenset({".py", ".pyi", ".pyx", ".ipynb", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".js", ".ts", ".rs", ".go"})


def code(*, argv: bool = True) -> Code:
    """The revision of the script's repository, else of the working directory's, and a digest of what was changed in it.

    Both are absent outside of one. The command line is left out where `argv` is false.
    """
    folder = _folder()
    revision = _git(folder, "rev-parse", "HEAD")
    changed = None if revision is None else _git(folder, *_DIFF)
    digest = hashlib.sha256(changed).hexdigest() if changed else None
    given = tuple(argument.encode(errors="replace").decode() for argument in sys.argv)
    return Code(
        revision=None if revision is None else revision.decode().strip(), dirty_digest=digest, argv=mask_arguments(given) if argv else None
    )


def sources() -> tuple[Source, ...]:
    """The source that a revision does not give, at most 256 KiB of text in all: the changes first, then the script, then what it loaded."""
    room, found = _MOST_BYTES, []
    for name, content in _texts():
        found.append(_source(name, content, room))
        room -= len((found[-1].text or "").encode())
    return tuple(found)


def is_own(file: str) -> bool:
    """True for a Python file that is the user's own: of no installed package, nor of Esper or Python itself."""
    return file.endswith(".py") and os.path.isfile(file) and not os.path.abspath(file).startswith(_installed())  # noqa: PTH100, PTH113 - of each loaded module.


@cache
def _installed() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {str(Path(__file__).parents[1])}
    return tuple(sorted(f"{folder}{os.sep}" for folder in folders | {os.path.realpath(folder) for folder in folders}))


def _folder() -> Path:
    """The folder of the script; the working directory where the program is none of the user's own, or has no file."""
    file: str | None = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).absolute().parent if file is not None and is_own(file) else Path.cwd()


def _texts() -> Iterator[tuple[str, bytes]]:
    folder = _folder()
    top = _git(folder, "rev-parse", "--show-toplevel")
    changed = None if top is None else _git(folder, *_DIFF)
    if changed:
        yield "git diff", changed
    root = folder if top is None else Path(os.fsdecode(top).rstrip("\n"))
    known = set() if top is None else _tracked(root)
    unknown = [path for path in _loaded(root) if path.relative_to(root).as_posix() not in known]
    for path in unknown[:_MOST_FILES]:
        try:
            yield path.relative_to(root).as_posix(), path.read_bytes()
        except OSError:
            continue
    if cells := vars(sys.modules.get("__main__", ModuleType("none"))).get("In"):  # IPython's, of a notebook or a shell.
        yield "notebook cells", "\n\n".join(filter(None, map(str, cells))).encode(errors="replace")


def _loaded(root: Path) -> Iterator[Path]:
    """The files below `root` that the user's own modules of this process are made of, the script first."""
    within, seen = f"{root}{os.sep}", set()
    modules = [sys.modules.get("__main__"), *map(sys.modules.get, sorted(sys.modules))]
    for module in modules:
        file = getattr(module, "__file__", None)
        file = os.path.abspath(file) if isinstance(file, str) else ""  # noqa: PTH100 - of each loaded module.
        if file.startswith(within) and file not in seen and is_own(file):
            seen.add(file)
            yield Path(file)


def _tracked(root: Path) -> set[str]:
    return {os.fsdecode(name) for name in (_git(root, "ls-files", "-z", "--", "*.py") or b"").split(b"\0")}


def _source(name: str, content: bytes, room: int) -> Source:
    """`content` with at most `room` bytes of its text."""
    text = None if b"\0" in content or room <= 0 else _masked(name, content.decode(errors="replace"))
    kept = None if text is None else text.encode()[:room].decode(errors="ignore")
    masked = 0 if kept is None else max(0, kept.count(MASK) - content.count(MASK.encode()))
    return Source(
        name=name,
        text=kept,
        size_bytes=len(content),
        digest=hashlib.sha256(content).hexdigest(),
        complete=kept is not None and kept == text,
        masked=masked,
    )


def _masked(name: str, text: str) -> str:
    if name != "git diff":
        return mask_text(text, code=True)
    head, *parts = re.split(r"^(?=diff --git )", text, flags=re.MULTILINE)
    return head + "".join(mask_text(part, code=Path(part.partition("\n")[0]).suffix in _CODE_ENDINGS) for part in parts)


def _git(folder: Path, *arguments: str) -> bytes | None:
    try:
        command = ("git", "-C", os.fspath(folder), *arguments)
        done = subprocess.run(command, capture_output=True, timeout=_GIT_WAIT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
