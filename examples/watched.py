"""A training that goes wrong while nobody looks, and what is said about it: rules and a metric of your own, beside the built-in ones.

    python examples/watched.py [--log DIR]

In the middle of the training a sensor fails: one of the inputs is zero from then on. The loader measures how much that input varies, a rule
of `alerts.toml` says what is too little, and `delivery.toml` whom that reaches: here a file, `alerts.log`, in the log's directory.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import esper

RULES = """
[[rule]]
name = "sensor-dead"
topic = "observability.metrics.custom"
metric = "esper_custom_input_std"
below = 0.1
for = "1s"
severity = "critical"
annotations = { summary = "an input hardly varies any more: {value}" }
"""

DELIVERY = """
[[handlers]]
kind = "log"
name = "file"
path = "{path}"
"""


class Sensors:
    """Batches of 8 inputs [32, 8] and what follows from them [32, 1]; from batch `fails_at` on the last input is 0."""

    def __init__(self, fails_at: int) -> None:
        self._fails_at, self._batch = fails_at, 0

    def __len__(self) -> int:
        return 50

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(len(self)):
            self._batch += 1
            inputs = torch.randn(32, 8)
            target = inputs.cumsum(1)[:, -1:].tanh()
            if self._batch >= self._fails_at:
                inputs[:, -1] = 0.0
            esper.measure("input_std", inputs[:, -1].std())
            time.sleep(0.01)  # As if reading took its time.
            yield inputs, target


def write_own(path: Path, text: str) -> None:
    """Writes `text` to `path`, where nobody else wrote something else."""
    if path.exists() and path.read_text() != text:
        sys.exit(f"{path} is another's; name another directory: --log DIR")
    path.write_text(text)


def wait_for_the_end(alerts: Path, run: str, limit_s: float = 30.0) -> str:
    """The lines of `alerts` about `run` once one tells of an end: whoever observes works beside the training, and is a moment behind."""
    deadline = time.monotonic() + limit_s
    while True:
        lines = [line for line in alerts.read_text().splitlines(keepends=True) if run in line] if alerts.exists() else []
        if any(" resolved " in line for line in lines) or time.monotonic() >= deadline:
            return "".join(lines)
        time.sleep(0.1)


def main() -> None:
    """Trains, then asks what was noticed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--log", type=Path, default=Path("runs-watched"), help="where runs are kept (default: runs-watched)")
    log = parser.parse_args().log.absolute()
    log.mkdir(parents=True, exist_ok=True)
    write_own(log / "alerts.toml", RULES)
    write_own(log / "delivery.toml", DELIVERY.format(path=log / "alerts.log"))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    valid = [(inputs, inputs.cumsum(1)[:, -1:].tanh()) for inputs in torch.randn(10, 32, 8)]
    result = esper.fit(model, Sensors(fails_at=400), valid, loss=F.mse_loss, epochs=16, grow=None, log=log)

    delivered = wait_for_the_end(log / "alerts.log", result.run)
    print(f"run {result.run} is over; what was noticed, by `esper alerts list {result.run[-6:]} --log {log}`:", flush=True)
    subprocess.run([sys.executable, "-m", "esper.cli", "alerts", "list", result.run, "--log", str(log)], check=True)
    print(f"and what was delivered, in {log / 'alerts.log'}:\n{delivered}", end="")


if __name__ == "__main__":
    main()
