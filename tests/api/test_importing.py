"""What importing `esper` costs, and what it has."""

import subprocess
import sys
from pathlib import Path

import pytest

import esper
from esper.processes.train import Result

WITHOUT = """
import sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "safetensors", "sklearn", "psutil"):
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Nowhere())
"""


def in_a_process_without_torch(program: str, *arguments: object) -> str:
    words = (sys.executable, "-c", WITHOUT + program, *map(str, arguments))
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_importing_esper_imports_nothing_that_training_needs() -> None:
    program = "import esper; print(sorted(name for name in sys.modules if name in ('torch', 'numpy', 'pydantic', 'apsw')))"
    assert in_a_process_without_torch(program) == "[]\n"


def test_what_esper_has_is_listed_without_torch() -> None:
    program = "import esper; print([name for name in dir(esper) if not name.startswith('_')], 'torch' in sys.modules)"
    assert in_a_process_without_torch(program) == "['Grow', 'Result', 'Task', 'fit', 'measure', 'open', 'sql'] False\n"


@pytest.mark.whole
def test_a_history_is_read_without_torch(finished: tuple[Path, Result]) -> None:
    log, result = finished
    program = "import esper; run = esper.open('latest', log=sys.argv[1]); print(run.run, run.state.epoch, run.state.status); run.close()"
    assert in_a_process_without_torch(program, log) == f"{result.run} 4 finished\n"


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'fitt'; it has Grow, Result, Task, fit, measure, open"):
        esper.fitt  # noqa: B018 - looking it up is what fails
