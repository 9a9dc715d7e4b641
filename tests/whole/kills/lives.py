"""The killer: starts lives of a run in processes of their own, kills them, and keeps what they acknowledged before they died.

A life is a fork of a template process (see `killed`). What a life says after a `commit` comes through a pipe, so it survives the life.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.whole.kills.killed import FAILED, FINISHED, INTERRUPTED
from tests.whole.kills.points import Kill

ROOT = Path(__file__).resolve().parents[3]
ENDS = {FINISHED: "finished", INTERRUPTED: "interrupted", FAILED: "failed"}
# Threads that numpy's libraries start when they are imported would make the template a process of many threads.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
PATIENCE_S = 120.0


@dataclass
class Life:
    """How one life went: `end` is "killed" or a word of `ENDS`; `acknowledged` are record ids with the digest of a fact's bytes."""

    end: str = ""
    acknowledged: dict[str, str | None] = field(default_factory=dict)
    caught_up_s: float | None = None
    error: str = ""
    stepped: threading.Event = field(default_factory=threading.Event, repr=False)

    def hear(self, line: bytes) -> None:
        """Takes one line of what the life told."""
        told: dict[str, Any] = json.loads(line)
        self.acknowledged |= told.get("acknowledged", {})
        self.caught_up_s = told.get("caught_up_s", self.caught_up_s)
        self.error = told.get("error", self.error)
        if "stepped" in told:
            self.stepped.set()


class Lives:
    """A template process, and one life of it after another. One thread at a time."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        self._template = subprocess.Popen(
            [sys.executable, "-m", "tests.whole.kills.killed", str(write)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(write,),
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            text=True,
        )
        os.close(write)

    def live(
        self, path: Path, mode: str, *, kill: Kill | None = None, signal_after_s: float | None = None, number: int = signal.SIGKILL
    ) -> Life:
        """One life of the run in log `path`; `mode` is "train" or "resume".

        It ends by itself, at `kill`, or by signal `number` sent `signal_after_s` after its first step.
        """
        life = Life()
        pid = int(self._ask({"path": str(path), "mode": mode, "kill": kill}))
        done = threading.Event()
        ear = threading.Thread(target=self._hear, args=(life, done))
        ear.start()
        if signal_after_s is not None and self._has_stepped(life, pid):
            time.sleep(signal_after_s)
            self._signal(pid, number)
        status = int(self._answer())
        done.set()
        ear.join()
        code = os.waitstatus_to_exitcode(status)
        life.end = "killed" if code == -signal.SIGKILL else ENDS.get(code, f"ended by signal {-code}")
        return life

    def close(self) -> None:
        """Ends the template."""
        assert self._template.stdin is not None
        assert self._template.stdout is not None
        self._template.stdin.close()
        self._template.wait(PATIENCE_S)
        self._template.stdout.close()
        os.close(self._read)

    def _ask(self, order: dict[str, object]) -> str:
        assert self._template.stdin is not None
        self._template.stdin.write(json.dumps(order) + "\n")
        self._template.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._template.stdout is not None
        line = self._template.stdout.readline()
        if not line:
            raise RuntimeError(f"the template of the lives ended with {self._template.wait(PATIENCE_S)}")
        return line

    def _hear(self, life: Life, done: threading.Event) -> None:
        """Reads lines until the life is over and nothing is left. A line that a kill cut short was not told."""
        os.set_blocking(self._read, False)
        rest = b""
        while True:
            over = done.is_set()
            try:
                rest += os.read(self._read, 1 << 16)
            except BlockingIOError:
                if over:
                    return
                done.wait(0.002)
                continue
            *lines, rest = rest.split(b"\n")
            for line in lines:
                life.hear(line)

    def _has_stepped(self, life: Life, pid: int) -> bool:
        """True once the life has made its first step; False where it ended before."""
        deadline = time.monotonic() + PATIENCE_S
        while not life.stepped.wait(0.05) and time.monotonic() < deadline:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return life.stepped.is_set()
        return life.stepped.is_set()

    def _signal(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return  # It ended by itself meanwhile.


@contextmanager
def lives() -> Iterator[Lives]:
    """A template for as long as it is needed."""
    one = Lives()
    try:
        yield one
    finally:
        one.close()
