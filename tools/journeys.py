"""The functions that four journeys pass, traced in this checkout, or in the one that is named.

    python tools/journeys.py [--json] [CHECKOUT]

Counted are the distinct functions of `esper` that are entered, helpers and properties included, comprehensions and lambdas not:

- emit to disk: one fact, from `Emitter.emit` until it is committed;
- record to webhook: an observer that follows a training, from the record with a loss of NaN until the receiver has the alert;
- decision to stage: `adapt` at the epochs' ends of one growing training;
- record to show: `esper show latest`.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

_UNNAMED = frozenset({"<module>", "<genexpr>", "<listcomp>", "<dictcomp>", "<setcomp>", "<lambda>"})
_BAD_CALL = 40
_SETTLE_S, _WITHIN_S = 4.0, 60.0
# Its loss is NaN at one call. Just before, it marks that it has come so far, and waits until the observer has read everything.
_TRAINING = f"""
import math, pathlib, sys, time, torch, esper
import torch.nn.functional as F
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
data = [(torch.randn(16, 8), torch.randint(3, (16,))) for _ in range(60)]
calls = 0
def objective(model, batch):
    global calls
    calls += model.training
    if calls == {_BAD_CALL} - 1:
        pathlib.Path(sys.argv[2]).touch()
        time.sleep({_SETTLE_S})
    loss = F.cross_entropy(model(batch[0]), batch[1])
    return loss * math.nan if calls == {_BAD_CALL} else loss
esper.fit(net, data, data[:2], epochs=2, objective=objective, grow=None, log=sys.argv[1], observe=False)
"""


class Trace:
    """The functions of the source under `root` that are entered while it is on, in the order of their first entries.

    With `within`, only those that are entered inside a function of that name.
    """

    def __init__(self, root: Path, *, within: str | None = None) -> None:
        self.on = True
        self._source = f"{root / 'src' / 'esper'}{os.sep}"
        self._within = within
        self._depth = 0
        self._entered: dict[CodeType, None] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if not self.on or event not in {"call", "return"} or not code.co_filename.startswith(self._source):
            return
        if code.co_name == self._within:
            self._depth += 1 if event == "call" else -1
        if event == "call" and code.co_name not in _UNNAMED and (self._within is None or self._depth):
            self._entered.setdefault(code)

    def clear(self) -> None:
        """Forgets what was entered so far."""
        self._entered.clear()

    def names(self) -> list[str]:
        """Module and qualified name of each function."""
        modules = (code.co_filename.removeprefix(self._source).removesuffix(".py") for code in self._entered)
        return [f"{module}: {code.co_qualname}" for module, code in zip(modules, self._entered, strict=True)]

    def __enter__(self) -> "Trace":
        threading.setprofile(self)
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.on = False
        sys.setprofile(None)
        threading.setprofile(None)


def _module(name: str) -> ModuleType:
    """A module of the checkout that is traced."""
    return importlib.import_module(f"esper.{name}")


def emit_to_disk(root: Path, log: Path) -> Trace:
    """One fact, its topic being open already."""
    lifecycle, directory = _module("events.kinds.lifecycle"), _module("oona.directory")
    run, stages = directory.new_run_id(datetime.now(UTC), os.urandom(10)), lifecycle.Stage
    fact = lifecycle.SeedTransitioned(
        site="a",
        seed=0,
        from_stage=stages.TRAINING,
        to_stage=stages.GRAFTING,
        reason="",
        blueprint="mlp:24",
        kernel="5f",
        life=1,
        embargo_until=None,
    )
    trace = Trace(root)
    trace.on = False
    threading.setprofile(trace)
    with (
        directory.Directory(log).create(run) as opened,
        _module("oona.emitter").Emitter(opened, run, clock=lambda: datetime.now(UTC)) as emitter,
    ):
        for step in range(2):
            with trace if step else contextlib.nullcontext():
                trace.on = bool(step)
                emitter.emit(fact, epoch=0, step=step)
                emitter.commit()
    return trace


def record_to_webhook(root: Path, log: Path) -> Trace:
    """`esper observe` in this process; the training is another."""
    trace = Trace(root)
    with _receiver(trace) as port:
        (log / "delivery.toml").write_text(f'[[handlers]]\nname = "hook"\nkind = "webhook"\nurl = "http://127.0.0.1:{port}/"\n')
        training = threading.Thread(target=_train_with_a_nan, args=(root, log, trace))
        training.start()
        with trace, contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit, KeyboardInterrupt):
            _module("cli.main").main(["observe", "--log", os.fspath(log)])
        training.join()
    return trace


@contextlib.contextmanager
def _receiver(trace: Trace) -> Iterator[int]:
    """The port of a server that ends `trace` at the first message."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            trace.on = False
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Writes nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def _train_with_a_nan(root: Path, log: Path, trace: Trace) -> None:
    mark = log.parent / "waiting"
    process = subprocess.Popen([sys.executable, "-c", _TRAINING, log, mark], env=_environment(root), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + _WITHIN_S
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(_SETTLE_S / 2)
    trace.clear()
    process.wait()
    while trace.on and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def decision_to_stage(root: Path, log: Path) -> Trace:
    """Every adaptation of one training."""
    trace = Trace(root, within="adapt")
    _grow(log, trace)
    return trace


def record_to_show(root: Path, log: Path) -> Trace:
    """`esper show latest` of such a training."""
    _grow(log, contextlib.nullcontext())
    trace = Trace(root)
    with trace, contextlib.redirect_stdout(io.StringIO()):
        _module("cli.main").main(["show", "latest", "--log", os.fspath(log)])
    return trace


def _grow(log: Path, trace: contextlib.AbstractContextManager[Any]) -> None:  # Any: nobody asks for what it gives.
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    data = [(torch.randn(16, 8), torch.randint(3, (16,))) for _ in range(20)]
    with trace:
        importlib.import_module("esper").fit(net, data, data[:2], epochs=60, loss=nn.CrossEntropyLoss(), log=log, observe=False)


_JOURNEYS: dict[str, Callable[[Path, Path], Trace]] = {
    journey.__name__: journey for journey in (emit_to_disk, record_to_webhook, decision_to_stage, record_to_show)
}


def _environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.fspath(root / "src"), "OMP_NUM_THREADS": "1"}


def main(arguments: list[str]) -> None:
    """Traces each journey in a process of its own, and prints the functions."""
    parser = argparse.ArgumentParser(description="List the functions that four journeys pass.")
    parser.add_argument(
        "checkout", nargs="?", type=Path, default=Path(__file__).parents[1], help="the root of a checkout (default: this one)"
    )
    parser.add_argument("--json", action="store_true", help="one object with a list of functions per journey")
    parser.add_argument("--journey", choices=_JOURNEYS, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    root = chosen.checkout.resolve()
    if chosen.journey:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")
            log.mkdir()
            print(json.dumps(_JOURNEYS[chosen.journey](root, log).names()))
        return
    command = [sys.executable, __file__, root, "--journey"]
    found = {
        name: json.loads(subprocess.run([*command, name], check=True, stdout=subprocess.PIPE, env=_environment(root)).stdout)
        for name in _JOURNEYS
    }
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    for name, functions in found.items():
        print(f"{name.replace('_', ' ')}: {len(functions)} functions")
        print("\n".join(f"  {function}" for function in functions))


if __name__ == "__main__":
    main(sys.argv[1:])
