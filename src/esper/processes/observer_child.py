"""The observer that `esper nissa` brings: a process of its own beside it, so that deriving takes no time from answering.

It offers to observe and waits for the lock like any other, ends with its parent (also one that was killed), and is started again when it
fails.
"""

import os
import subprocess
import sys
import threading

from esper.observer.leader import OBSERVE_VARIABLE
from esper.oona.directory import Directory

AGAIN_S = 5.0


class ObserverChild:
    """Keeps `esper observe` running for `directory` from `start` to `stop`. ESPER_OBSERVE=0 keeps it from that."""

    def __init__(self, directory: Directory) -> None:
        self._command = [sys.executable, "-m", "esper.cli", "observe", "--log", os.fspath(directory.path.absolute())]
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="esper-observer", daemon=True)

    def start(self) -> None:
        """Starts it."""
        if os.environ.get(OBSERVE_VARIABLE) != "0":
            self._thread.start()

    def stop(self) -> None:
        """Ends it, and returns when it has ended: the next to wait for the lock takes over."""
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.terminate()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        while (process := self._begun()) is not None:
            code = process.wait()
            if not self._stopping.is_set():
                sys.stderr.write(f"esper nissa: the observer ended with {code}; it is started again in {AGAIN_S:g} s\n")
                sys.stderr.flush()
                self._stopping.wait(AGAIN_S)

    def _begun(self) -> "subprocess.Popen[bytes] | None":
        with self._lock:
            if self._stopping.is_set():
                return None
            command = [*self._command, "--parent", str(os.getpid())]
            # In a session of its own, so that Ctrl-C reaches it through its parent alone.
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
            return self._process
