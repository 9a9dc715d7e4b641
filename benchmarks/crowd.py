"""Whether `esper nissa` survives a crowd: 2,000 idle connections, 200 tails at once and 20,000 requests, and whether its memory stays flat.

    python benchmarks/crowd.py [--json] [--idle N] [--tails N] [--requests N] [--waves N]

Each idle connection sends nothing; where the service ends it, it is opened again 15 s later. All tails are opened at one moment, half of
them are never read. A run is written meanwhile, so that tails have what to send. All of that comes in waves, each with its part of the
requests, to one service: what it keeps for a crowd is there after the first wave, and what it never gives back grows with each. Printed:
answers by status, how long they took, how many tails were let in, and the most memory of the service in each wave. Exit code 1 where the
service ended, a request had no answer, or a later wave took a tenth more memory than the first.
"""

import argparse
import asyncio
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.serving import free_port, process, quantile, wait_for
from esper.events.envelope import RunId
from esper.events.kinds.telemetry import StepColumns
from esper.oona.directory import Directory
from esper.oona.heads import Draft
from esper.oona.run_log import RunLog
from esper.oona.writer import append_drafts
from tests.oona.samples import steps, ticking
from tests.synthetic import write_run

LIVE = RunId("01f00000-0000-7000-8000-000000000000")
ASKERS = 8
BEFORE = 3000  # Records: more than the system keeps for a client that takes nothing.
PATHS = ("/metrics", "/healthz", "/api/v1/runs", "/api/v1/runs/latest", "/api/v1/runs/latest/events?limit=50", "/api/v1/status")


class Crowd:
    """The clients of one service, and what came of them."""

    def __init__(self, port: int, service: psutil.Process) -> None:
        self.port, self.service = port, service
        self.statuses = Counter[str]()
        self.answer_s: list[float] = []
        self.opened = self.unanswered = self.tails = 0
        self.memory: list[int] = []

    async def idle(self) -> None:
        """Sends nothing, and comes back when it is sent away."""
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                self.opened += 1
                with suppress(OSError):
                    await reader.read()
                writer.close()
            await asyncio.sleep(15)

    async def tail(self, *, deaf: bool) -> None:
        """Follows a run; a deaf one asks for all of it, and takes nothing."""
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port))
        reader, writer = await asyncio.open_connection(sock=client, limit=4096)
        writer.write(request(f"/api/v1/runs/{LIVE}/tail{'?cursor=1.0' if deaf else ''}"))
        status = (await reader.readline()).split()[1].decode()
        self.statuses[f"tail {status}"] += 1
        self.tails += status == "200"
        with suppress(OSError):
            if deaf:
                await asyncio.sleep(3600)
            while await reader.read(65536):
                pass
        writer.close()

    async def ask(self, count: int) -> None:
        """Asks so often, on one connection as long as that lasts."""
        reader = writer = None
        for number in range(count):
            began = time.monotonic()
            for _ in range(3):
                try:
                    if reader is None or writer is None:
                        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.write(request(PATHS[number % len(PATHS)]))
                    status = await answer(reader)
                except (OSError, asyncio.IncompleteReadError, IndexError):
                    reader = writer = None  # A connection that is kept may be ended at any time: a client asks again.
                    continue
                self.statuses[status] += 1
                self.answer_s.append(time.monotonic() - began)
                break
            else:
                self.unanswered += 1
            self.memory[-1] = max(self.memory[-1], self.service.memory_info().rss)


def request(path: str) -> bytes:
    """A request for `path`."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def answer(reader: asyncio.StreamReader) -> str:
    """The status of the next answer, read to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].split()[0])
    await reader.readexactly(length)
    return head.split()[1]


def write(log: RunLog, count: int) -> None:
    """Appends telemetry of two kilobytes a record: no fact, of which a service rightly keeps more with each."""
    first, clock = log.heads().moment + 1, ticking()
    many = tuple(range(1, 41))
    columns = StepColumns(
        step=many, loss=(0.123456,) * 40, gradient_norm=(1.234567,) * 40, step_latency_ms=(2.345678,) * 40, data_wait_ms=(0.012345,) * 40
    )
    event = steps(0).model_copy(update={"steps": columns})
    append_drafts(log, [Draft(event, event.TOPIC, moment, 1, clock(), 0, 0, None, None) for moment in range(first, first + count)])


async def go_on_writing(log: RunLog) -> None:
    """Ten records a second."""
    while True:
        await asyncio.to_thread(write, log, 10)
        await asyncio.sleep(1)


async def visit(crowd: Crowd, log: RunLog, arguments: argparse.Namespace) -> None:
    """A wave: all clients at once, until its last request is answered."""
    crowd.memory.append(0)
    others = [asyncio.create_task(go_on_writing(log))]
    others += [asyncio.create_task(crowd.idle()) for _ in range(arguments.idle)]
    others += [asyncio.create_task(crowd.tail(deaf=number % 2 == 0)) for number in range(arguments.tails)]
    async with asyncio.TaskGroup() as askers:
        for _ in range(ASKERS):
            askers.create_task(crowd.ask(arguments.requests // arguments.waves // ASKERS))
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """The figures of one crowd."""
    directory, port = Directory(folder), free_port()
    write_run(directory)
    with ExitStack() as stack:
        log = stack.enter_context(directory.create(LIVE))
        write(log, BEFORE)
        words = ("-m", "esper.cli", "nissa", "--log", str(folder), "--port", str(port), "--open")
        service = stack.enter_context(process(*words, stdout=subprocess.DEVNULL))
        wait_for(port, service)
        crowd, began = Crowd(port, psutil.Process(service.pid)), time.monotonic()
        for _ in range(arguments.waves):
            asyncio.run(visit(crowd, log, arguments))
        alive = service.poll() is None
    return {
        "alive": alive,
        "seconds": round(time.monotonic() - began, 1),
        "idle": arguments.idle,
        "idle_opened": crowd.opened,
        "tails": arguments.tails,
        "tails_let_in": crowd.tails,
        "answers": dict(crowd.statuses),
        "unanswered": crowd.unanswered,
        "answer_p50_ms": quantile(crowd.answer_s, 0.5),
        "answer_p99_ms": quantile(crowd.answer_s, 0.99),
        "memory_mb": [round(size / 1e6) for size in crowd.memory],
        "flat": max(crowd.memory) <= 1.1 * crowd.memory[0],
    }


def main() -> int:
    """Measures, and prints a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--tails", type=int, default=200)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--waves", type=int, default=4)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with tempfile.TemporaryDirectory(prefix="esper-crowd-", ignore_cleanup_errors=True) as folder:  # An observer takes its time to leave.
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, arguments.idle + arguments.tails + 500), hard))
        figures = measure(arguments, Path(folder))
    if arguments.json:
        json.dump(figures, sys.stdout)
        print()
    else:
        for name, value in figures.items():
            print(f"{name:14} {value}")
    return int(not figures["alive"] or bool(figures["unanswered"]) or not figures["flat"])


if __name__ == "__main__":
    sys.exit(main())
