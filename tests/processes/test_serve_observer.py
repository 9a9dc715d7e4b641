"""The observer beside `esper nissa`: it observes while its parent lives, and leaves with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper.observer.leader import observer_of
from esper.oona.directory import Directory
from esper.processes.serve import observer_process
from tests.waiting import until

pytestmark = pytest.mark.whole
PARENT = "import sys, time; from esper.oona.directory import Directory; from esper.processes.serve import observer_process; "
STARTS = "observer_process(Directory(sys.argv[1])).start(); time.sleep(60)"


def test_it_observes_until_it_is_stopped(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    child = observer_process(directory)
    child.start()
    until(lambda: observer_of(directory) is not None)
    assert observer_of(directory) != os.getpid()
    child.stop()
    assert observer_of(directory) is None


def test_it_is_started_again_when_it_was_killed(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    child = observer_process(directory)
    child.start()
    until(lambda: observer_of(directory) is not None)
    first = observer_of(directory)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: observer_of(directory) not in {None, first})
    child.stop()


def test_it_leaves_when_its_parent_was_killed(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    parent = subprocess.Popen((sys.executable, "-c", PARENT + STARTS, tmp_path))
    until(lambda: observer_of(directory) is not None)
    parent.kill()
    parent.wait()
    until(lambda: observer_of(directory) is None)
