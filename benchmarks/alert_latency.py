"""How soon somebody knows: from a NaN in a training to a webhook's receiver, and from a health record to the API's answer.

    python benchmarks/alert_latency.py [--runs N] [--json]

Everything is real: small trainings by `esper.fit`, an `esper observe` and an `esper nissa` as processes of their own on the same directory,
and an HTTP server that receives. Each training computes one NaN loss; its clock starts when the model's objective returns it. The peer is
what a script would do by itself: post to the same receiver from the training loop, at that line. Health is measured in a training that
goes on; its clock starts with the record's own time, and the API is asked again and again, twenty times a second.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import esper
from esper.observer.leader import observer_of
from esper.oona.directory import Directory

RUNS = 60
HEALTH = 60
BAD_STEP = 40
PORT = 9193
WAIT_S = 60.0


class Receiver:
    """An HTTP server on loopback that notes when it was told of which run."""

    def __init__(self) -> None:
        self.told_at: dict[str, float] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                came_at = time.time()
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                for alert in body["alerts"]:
                    receiver.told_at.setdefault(alert["labels"]["run"], came_at)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def post(self, run: str) -> None:
        """Tells it of `run`, as a script by itself would."""
        body = json.dumps({"alerts": [{"labels": {"run": run}}]}).encode()
        urllib.request.urlopen(urllib.request.Request(self.url, body, {"content-type": "application/json"}), timeout=10).close()  # noqa: S310


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[None]:
    """An `esper` process for as long as this lasts."""
    started = subprocess.Popen([sys.executable, "-m", "esper.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        started.terminate()
        started.wait(30)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Small random data: what is learnt is not the question."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 8, generator=generator), torch.randint(3, (16,), generator=generator)) for _ in range(count)]


def net() -> nn.Module:
    """A small net with two sites."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def train_with_a_nan(log: Path, receiver: Receiver | None) -> tuple[str, float]:
    """The run's id, and when its objective returned NaN; `receiver` is told then by the loop itself, where there is one."""
    happened: list[float] = []
    calls = 0

    def objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        loss = F.cross_entropy(model(batch[0]), batch[1])
        calls += model.training
        if calls == BAD_STEP and not happened:
            happened.append(time.time())
            if receiver is not None:
                receiver.post("peer")
            return loss * math.nan
        return loss

    data = batches(60)
    result = esper.fit(net(), data, batches(2), epochs=2, objective=objective, grow=None, log=log, observe=False)
    return result.run, happened[0]


def alert_latencies_ms(log: Path, runs: int) -> tuple[list[float], list[float]]:
    """Through the log, the observer and its webhook; and by the loop itself."""
    receiver = Receiver()
    settings = f'[[handlers]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\nrate_per_minute = 6000\nburst = 1000\n'
    (log / "delivery.toml").write_text(settings)
    directory = Directory(log)
    late, by_hand = [], []
    with process("observe", "--log", os.fspath(log)):
        waited_for(lambda: observer_of(directory) is not None)
        for _ in range(runs):
            run, happened_at = train_with_a_nan(log, None)
            waited_for(lambda run=run: run in receiver.told_at)
            late.append((receiver.told_at[run] - happened_at) * 1e3)
            _, happened_at = train_with_a_nan(log / "peers", receiver)
            by_hand.append((receiver.told_at.pop("peer") - happened_at) * 1e3)
    return late, by_hand


def waited_for(condition: Callable[[], object]) -> None:
    """Returns when `condition` holds. Raises TimeoutError after a minute."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen within a minute")
        time.sleep(0.005)


def health_latencies_ms(log: Path, count: int) -> list[float]:
    """From the time of a health record to the answer of the API that has it."""
    seen: dict[tuple[str, int], float] = {}
    ended = frozenset(Directory(log).names())
    stop = threading.Event()
    with process("nissa", "--log", os.fspath(log), "--port", str(PORT), "--open"):
        waited_for(lambda: asked("/healthz") is not None)
        training = threading.Thread(target=train_slowly, args=(log, stop))
        training.start()
        try:
            deadline = time.monotonic() + 2 * WAIT_S
            while len(seen) < count and time.monotonic() < deadline:
                page = asked("/api/v1/runs/latest/health?limit=5")
                answered_at = time.time()
                for one in page.get("measurements", ()) if page is not None and page["run"] not in ended else ():
                    late_s = answered_at - datetime.fromisoformat(one["time"]).timestamp()
                    seen.setdefault((page["run"], one["moment"]), late_s)
                time.sleep(0.05)
        finally:
            stop.set()
            training.join()
    return [late * 1e3 for late in seen.values()]


def train_slowly(log: Path, stop: threading.Event) -> None:
    """Measures health every ten steps, ten steps in a fifth of a second, until it is told to stop."""

    def objective(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        time.sleep(0.02 if not stop.is_set() else 0.0)
        return F.cross_entropy(model(batch[0]), batch[1])

    for _ in range(100):
        if stop.is_set():
            return
        esper.fit(net(), batches(400), batches(2), epochs=1, objective=objective, log=log, observe=False)


def asked(path: str) -> Any:  # Any: JSON of the API, which describes itself.
    """The API's answer; None where it has none yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


def at(share: float, values: list[float]) -> float:
    """The value that `share` of all are at most."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"trainings with a NaN (default: {RUNS})")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        log = Path(place)
        late, by_hand = alert_latencies_ms(log, options.runs)
        health = health_latencies_ms(log, HEALTH)
    figures = {
        "p50_ms": statistics.median(late),
        "p99_ms": at(0.99, late),
        "peer_p50_ms": statistics.median(by_hand),
        "peer_p99_ms": at(0.99, by_hand),
        "health_p50_ms": statistics.median(health),
        "health_p99_ms": at(0.99, health),
        "runs": len(late),
    }
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
        return
    print(f"{'':44}{'median':>10}{'p99':>10}")
    print(f"{'NaN to the webhook, through the log (ms)':44}{figures['p50_ms']:>10.1f}{figures['p99_ms']:>10.1f}")
    print(f"{'NaN to the webhook, by the loop itself (ms)':44}{figures['peer_p50_ms']:>10.1f}{figures['peer_p99_ms']:>10.1f}")
    print(f"{'health record to the API (ms)':44}{figures['health_p50_ms']:>10.1f}{figures['health_p99_ms']:>10.1f}")


if __name__ == "__main__":
    main()
