"""A process that another one keeps running beside itself, from its start to its own end."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL_S = 0.25
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 1.0, 30.0, 60.0


class ChildProcess:
    """Keeps `module` running with `words` from `start` to `stop`; it is started again when it ends, after a pause that grows with failures.

    The command takes `--parent PID` and leaves when that process has ended: so it ends with its parent, also one that was killed. One that
    `outlives` its parent takes no such option, ends by itself, and goes on after `stop`. What the command writes to standard error goes to
    that of the parent, or to `output`.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        report: Callable[[str], None],
        *,
        module: str = "esper.cli",
        folder: Path | None = None,
        stop_s: float = 30.0,
        output: int | None = None,
        wanted: Callable[[], bool] = lambda: True,
        outlives: bool = False,
    ) -> None:
        """`name` stands in reports. After `stop_s` a child that was told to stop is killed. `output`: a file's descriptor.

        It is started in `folder` (None: this process's), and only while it is `wanted`.
        """
        self._name, self._report, self._folder, self._stop_s, self._output = name, report, folder, stop_s, output
        self._status = 0
        self._wanted, self._outlives = wanted, outlives
        self._command = [sys.executable, "-m", module, *words, *([] if outlives else ["--parent", str(os.getpid())])]
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=f"esper-{name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The pid of the child that was started last, None where none runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        """Starts it."""
        self._thread.start()

    def stop(self) -> int:
        """Ends it; its exit status once it has ended, 0 where none ran. One that `outlives` its parent is only not started again.

        Nothing happens where it was never started.
        """
        self._stopping.set()
        if self._thread.is_alive() and not self._outlives:
            self._thread.join()
        return self._status

    def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        out, err = (subprocess.DEVNULL, None) if self._output is None else (self._output, self._output)
        while not self._stopping.is_set():
            if not self._wanted():
                self._stopping.wait(_POLL_S)
                continue
            began_at = time.monotonic()
            # In a session of its own, so that Ctrl-C reaches it through its parent alone.
            self._process = process = subprocess.Popen(  # noqa: S603
                self._command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )
            while process.poll() is None and not self._stopping.wait(_POLL_S):
                pass
            if self._stopping.is_set():
                self._end(process)
                return
            if self._outlives and process.returncode == 0:
                continue
            pause_s = _FIRST_PAUSE_S if time.monotonic() > began_at + _STEADY_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            wait_s = pause_s * (0.5 + random.random())
            self._report(f"the {self._name} ended with {process.returncode}; it is started again in {wait_s:.0f} s")
            self._stopping.wait(wait_s)

    def _end(self, process: "subprocess.Popen[bytes]") -> None:
        if self._outlives:
            process.wait()  # One that is not waited for stays as a zombie.
            return
        process.terminate()
        try:
            self._status = process.wait(self._stop_s)
        except subprocess.TimeoutExpired:
            self._report(f"the {self._name} did not stop within {self._stop_s:g} s and is killed")
            process.kill()
            self._status = process.wait()
