"""What public detectors say of trainings, at their defaults. Run by `alarms.py --peers`, with the Python of an environment that has them.

On standard input one JSON line a training: its lines as a training loop logs them, {"step", "loss", "grad_norm", "learning_rate"} for a
step and {"step", "eval_loss"} for a validation. On standard output one JSON line each: {detector: [[[step, severity], ...], microseconds of
processor time a step]}. A detector that is not installed is left out. losslint reads the lines as its JSONL after the run, with every check
that it has; a finding that names no step is of the last one. trainpulse is given loss, gradient norm and learning rate of each step, as its
page does. trainscope is attached to a perceptron of 676 weights, whose gradients are there, and is given each step's loss; a spike is an
alarm, and so is a loss that is not finite, which it logs as a warning. Its time is that of its `step`, without its hooks in forward.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Lines = list[dict[str, Any]]  # Any: numbers by name, which the detectors read.
Found = list[tuple[int, str]]


def _losslint(lines: Lines) -> Found:
    from losslint.checks import run_all_checks
    from losslint.parsing import load_run

    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        findings = run_all_checks(load_run(Path(file.name)))
    last = lines[-1]["step"]
    severities = {"error": "critical"}
    return [
        (one.details.get("since_step") or next(iter(one.details.get("steps", ())), last), severities.get(one.severity, one.severity))
        for one in findings
    ]


def _trainpulse(lines: Lines) -> Found:
    from trainpulse import Monitor

    monitor = Monitor()
    for line in lines:
        for name, value in line.items():
            if name in {"loss", "grad_norm", "learning_rate"} and value is not None:
                monitor.log(name, line["step"], value)
    return [(alert.step, alert.severity.value) for alert in monitor.alerts]


class _Told:
    """An alerter of trainscope that counts what it is told."""

    spikes = 0

    def alert(self, *_: object) -> None:
        """Counts a spike."""
        self.spikes += 1


def _trainscope(lines: Lines) -> Found:
    import torch
    from trainscope import TrainScope, TrainScopeConfig

    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    model(torch.ones(2, 16)).sum().backward()
    found: Found = []
    with tempfile.TemporaryDirectory() as folder:
        scope = TrainScope(model, torch.optim.Adam(model.parameters()), TrainScopeConfig(run_dir=folder)).attach()
        told = _Told()
        scope._alerters.append(told)
        for line in lines:
            if (loss := line.get("loss")) is not None:
                before = told.spikes
                scope.step(loss)
                if told.spikes > before or not math.isfinite(loss):
                    found.append((line["step"], "warning"))
    return found


def _timed(find: Callable[[Lines], Found], lines: Lines) -> tuple[Found, float]:
    started = time.process_time()
    found = find(lines)
    return found, 1e6 * (time.process_time() - started) / max(1, sum("loss" in line for line in lines))


def main() -> None:
    """Reads trainings, and prints what each detector found."""
    installed = {
        name: find for name, find in (("losslint", _losslint), ("trainpulse", _trainpulse), ("trainscope", _trainscope)) if find_spec(name)
    }
    for line in sys.stdin:
        lines = json.loads(line)
        print(json.dumps({name: _timed(find, lines) for name, find in installed.items()}))


if __name__ == "__main__":
    main()
