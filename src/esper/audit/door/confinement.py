"""Rights that a process gives up for good, so that whatever it runs later can neither reach a file nor outlive its limits.

Three parts of the kernel are used, none of which needs privileges. *Landlock* (Linux 5.13 and newer) takes away every file but one, TCP and
signals to others; it holds for the calling thread and those it starts later. *Limits of resources* hold for the whole process and
everywhere: with a limit of no descriptors nothing can be opened any more, be it a file, a folder or a socket. *Signals* end it with its
parent and at its deadline, whatever its code is doing. Nothing but the standard library is imported here.
"""

import ctypes
import os
import resource
import signal
import struct
import sys
import tempfile
from pathlib import Path

from esper.errors import DataError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # One number on every architecture.
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_READ_FILE, _PATH_BENEATH = 1 << 2, 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # Bits of linux/landlock.h, by its version; 16 from version 5 on.
_TCP = 0b11  # bind and connect, from version 4 on.
_SCOPES = 0b11  # Abstract sockets and signals of others, from version 6 on.
_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38


def landlock_version() -> int:
    """The version of Landlock that this kernel has; 0 where it has none, or forbids it."""
    return max(0, _system_call(_CREATE_RULESET, None, 0, _VERSION)) if sys.platform == "linux" else 0


def end_with(parent: int, deadline_s: float) -> None:
    """From now on this process is killed when `parent` dies, and at the latest in `deadline_s`: by the kernel, in whatever code it is.

    Elsewhere than on Linux the death of the parent is not noticed, and the deadline alone ends it.
    """
    signal.setitimer(signal.ITIMER_REAL, deadline_s)  # Python sets no handler for SIGALRM, whose default is the end.
    if sys.platform == "linux":
        _library().prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def leave_folders() -> None:
    """Makes the working directory one that exists no more: no relative path leads anywhere, and nothing can be made in it."""
    folder = tempfile.mkdtemp(prefix="esper-door-")
    os.chdir(folder)
    Path(folder).rmdir()


def keep_one_file(descriptor: int) -> None:
    """Takes away every file but that of `descriptor`, which may be read; and TCP, and signals. Threads that run already keep their rights.

    Does nothing where the kernel has no Landlock. Raises DataError where it has and refuses.
    """
    version = landlock_version()
    if version == 0:
        return
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    ruleset = struct.pack("QQQ", rights, _TCP, _SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    made = _system_call(_CREATE_RULESET, ruleset, len(ruleset), 0)
    rule = struct.pack("=Qi", _READ_FILE, descriptor)
    done = (
        made >= 0
        and _system_call(_ADD_RULE, made, _PATH_BENEATH, rule, 0) == 0
        and _library().prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0
        and _system_call(_RESTRICT_SELF, made, 0) == 0
    )
    if not done:
        raise DataError(f"expected Landlock {version} to take this process's rights: {os.strerror(ctypes.get_errno())}")
    os.close(made)


def limit_memory(more_bytes: int) -> None:
    """From now on only `more_bytes` more of memory can be had. macOS does not keep to it."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    used_kb = next((int(line.split()[1]) for line in lines if line.startswith("VmData:")), 0)  # What RLIMIT_DATA counts.
    _limit(resource.RLIMIT_DATA, used_kb * 1024 + more_bytes)


def open_nothing_more() -> None:
    """From now on nothing can be opened, no file be written, and no process or thread be started: what is open stays open.

    A process of root can still start threads, for the kernel counts none of root's.
    """
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE):
        _limit(kind, 0)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (allowed, allowed))


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _system_call(number: int, *arguments: object) -> int:
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = _library().syscall(ctypes.c_long(number), *words)
    return result
