"""Whether `esper nissa` keeps up: a minute of 10 scrapes and 200 API reads a second while it follows 2,000 records a second.

Three processes besides this one: one trains nothing and writes the records of `--runs` live runs through the real emitter, one is `esper
nissa`, one asks. This one listens to a live tail and asks `/readyz` ten times a second. Printed: what was written and followed, how far the
service was behind at worst, how long answers took, how late records came at the tail. Exit code 1 where an answer failed, records are
missing from the metrics at the end, or the service was more than `--behind` seconds behind.
"""

import argparse
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.table import Table

from esper.events.envelope import RunId
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.telemetry import HealthColumns, SeedHealthMeasured, StepColumns, StepsMeasured
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.synthetic import RUN, started, write_run

SPAN, SEEDS = 10, 8  # Steps of one StepsMeasured, seeds of one SeedHealthMeasured.
TURN_S = 0.05
EPOCH_S = 1.0
ASKERS = 8


def main() -> int:
    """Runs the role that was asked for; without one, all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--records", type=float, default=2000.0, help="records a second, over all runs")
    parser.add_argument("--reads", type=float, default=200.0, help="API reads a second")
    parser.add_argument("--scrapes", type=float, default=10.0, help="scrapes a second")
    parser.add_argument("--runs", type=int, default=4, help="live runs")
    parser.add_argument("--behind", type=float, default=2.0, help="seconds that the service may be behind")
    parser.add_argument("--role", choices=("write", "ask"), help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "write":
        write(arguments)
        return 0
    if arguments.role == "ask":
        json.dump(ask(arguments), sys.stdout)
        return 0
    with tempfile.TemporaryDirectory(prefix="esper-serving-") as folder:
        figures = measure(arguments, Path(folder))
    failed = figures["errors"] > 0 or figures["missing"] > 0 or not figures["behind_s"] <= arguments.behind
    if arguments.json:
        json.dump(figures, sys.stdout)
        print()
    else:
        show(figures)
    return int(failed)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """The figures of one load."""
    directory = Directory(folder)
    write_run(directory)
    port = free_port()
    with ExitStack() as stack:
        service = stack.enter_context(
            process("-m", "esper.cli", "nissa", "--log", str(folder), "--port", str(port), "--open", stdout=subprocess.DEVNULL)
        )
        wait_for(port, service)
        common = [__file__, "--log", str(folder), "--port", str(port), "--seconds", str(arguments.seconds), "--runs", str(arguments.runs)]
        rates = ["--records", str(arguments.records), "--reads", str(arguments.reads), "--scrapes", str(arguments.scrapes)]
        writer = stack.enter_context(process(*common, *rates, "--role", "write", stdout=subprocess.PIPE))
        assert writer.stdout is not None
        tailed = writer.stdout.readline().decode().strip()
        asker = stack.enter_context(process(*common, *rates, "--role", "ask", stdout=subprocess.PIPE))
        delays, lags = listen(port, tailed, arguments.seconds)
        asked = json.loads(asker.communicate()[0])
        written = int(writer.stdout.readline())
        followed = until_followed(port, written)
        cpu_s = processor_s(service.pid)
        # The writer keeps its runs open until everything was read: a run that has ended is followed no more.
        writer.kill()
    return {
        "seconds": arguments.seconds,
        "written": written,
        "written_per_s": round(written / arguments.seconds, 1),
        "followed": followed,
        "missing": written - followed,
        "behind_s": round(max(lags), 3),
        "tail_p50_ms": quantile(delays, 0.5),
        "tail_p99_ms": quantile(delays, 0.99),
        "service_cpu": round(cpu_s / arguments.seconds, 3),
        **asked,
    }


def write(arguments: argparse.Namespace) -> None:
    """Writes records at the rate asked for, prints the newest run, then how many were written; then waits to be killed."""
    directory = Directory(arguments.log)
    with directory.open(RUN) as log:
        found = [record for record in log.read(limit=10_000).records if record.type == EpochCompleted.KIND]
    completed = EpochCompleted.model_validate_json(found[0].data)
    with ExitStack() as stack:
        emitters: list[Emitter] = []
        for number in range(arguments.runs):
            run = RunId(f"01f00000-0000-7000-8000-{number:012}")
            log = stack.enter_context(directory.create(run))
            emitters.append(stack.enter_context(Emitter(log, run, clock=lambda: datetime.now(UTC), heartbeat_s=1e9)))
        for emitter in emitters:
            emitter.emit(started(), epoch=0, step=0)
            emitter.commit()
        print(emitters[-1].run, flush=True)
        count = len(emitters) + emit_all(emitters, completed, arguments)
        for emitter in emitters:
            emitter.commit()
        print(count, flush=True)
        threading.Event().wait()


def emit_all(emitters: list[Emitter], completed: EpochCompleted, arguments: argparse.Namespace) -> int:
    """How many records were emitted: telemetry evenly over the time, and an epoch with a decision every second in each run."""
    began = time.monotonic()
    count = epoch = 0
    while (passed := time.monotonic() - began) < arguments.seconds:
        if passed >= epoch * EPOCH_S:
            epoch += 1
            system = completed.system.model_copy(update={"epoch": epoch})
            for emitter in emitters:
                cause = emitter.emit(completed.model_copy(update={"system": system}), epoch=epoch, step=count)
                emitter.emit(nothing(cause), epoch=epoch, step=count)
            count += 2 * len(emitters)
        while count < passed * arguments.records:
            emitter = emitters[count % len(emitters)]
            event = steps(count) if count // len(emitters) % 2 else health(count)
            emitter.measure(type(event), lambda event=event: event, epoch=epoch, step=count)  # type: ignore[misc]
            count += 1
        time.sleep(TURN_S)
    return count


def steps(step: int) -> StepsMeasured:
    """A span of steps."""
    numbers = tuple(range(step, step + SPAN))
    column = tuple(1.0 / (1 + number) for number in numbers)
    part = StepColumns(step=numbers, loss=column, gradient_norm=column, step_latency_ms=(12.5,) * SPAN, data_wait_ms=(0.5,) * SPAN)
    return StepsMeasured(
        steps=part,
        metrics={"accuracy": column},
        learning_rates=(0.1,),
        live_seeds=SEEDS,
        last_adaptation_step=None,
        samples_per_s=1000.0,
        memory_bytes=1 << 30,
    )


def health(step: int) -> SeedHealthMeasured:
    """The health of a few seeds."""
    column = (0.25,) * SEEDS
    columns = HealthColumns(
        site=("hidden.0",) * SEEDS,
        seed=tuple(range(SEEDS)),
        stage=(Stage.TRAINING,) * SEEDS,
        activation_variance=column,
        gradient_variance=column,
        dead_neuron_ratio=column,
        units=(64,) * SEEDS,
        avg_correlation=column,
        latency_ms=column,
        errors=(0,) * SEEDS,
        recovering=(False,) * SEEDS,
        alpha=column,
        ready=(False,) * SEEDS,
        health_score=column,
    )
    return SeedHealthMeasured(health=columns, last_adaptation_step=step or None)


def nothing(cause: str) -> DecisionMade:
    """A decision to do nothing."""
    wish = {"adaptation": Adaptation.NONE, "site": None, "seed": None, "confidence": 0.0, "urgency": 0.0}
    return DecisionMade.model_validate({**wish, "reason": "nothing", "evidence": (cause,)})


def ask(arguments: argparse.Namespace) -> dict[str, float]:
    """Asks at the rates asked for, on kept connections, and says how long answers took and how many failed."""
    read_s: list[float] = []
    scrape_s: list[float] = []
    late_s: list[float] = []
    errors: list[str] = []
    ends = time.monotonic() + arguments.seconds

    def asker(number: int) -> None:
        chance = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", arguments.port, timeout=20)
        scraping = number == 0
        every_s = 1 / arguments.scrapes if scraping else (ASKERS - 1) / arguments.reads
        due = time.monotonic() + every_s * number / ASKERS
        while due < ends:
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            path = "/metrics" if scraping else path_of(chance, arguments.runs)
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            (scrape_s if scraping else read_s).append(time.monotonic() - began)
            late_s.append(began - due)
            if answer.status != 200:
                errors.append(f"{answer.status} {path}")
            due += every_s
        connection.close()

    threads = [threading.Thread(target=asker, args=(number,)) for number in range(ASKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        print(*errors[:5], sep="\n", file=sys.stderr)
    return {
        "reads": len(read_s),
        "reads_per_s": round(len(read_s) / arguments.seconds, 1),
        "read_p50_ms": quantile(read_s, 0.5),
        "read_p99_ms": quantile(read_s, 0.99),
        "scrapes": len(scrape_s),
        "scrapes_per_s": round(len(scrape_s) / arguments.seconds, 1),
        "scrape_p50_ms": quantile(scrape_s, 0.5),
        "scrape_p99_ms": quantile(scrape_s, 0.99),
        "asked_late_p99_ms": quantile(late_s, 0.99),
        "errors": len(errors),
    }


def path_of(chance: random.Random, runs: int) -> str:
    """What a dashboard asks for, of a live run or of the finished one."""
    run = chance.choice([RUN, "latest", *(f"{number:012}" for number in range(runs))])
    about = ["", "/state", f"/state?at={chance.randrange(200) if run == RUN else 1}", "/seeds", "/transitions", "/decisions?limit=100"]
    about += ["/health?limit=5", "/events?limit=50", "/events?limit=50&topic=system.events.epoch"]
    return chance.choice(["/api/v1/runs", "/api/v1/status", *(f"/api/v1/runs/{run}{one}" for one in about)])


def listen(port: int, run: str, seconds: float) -> tuple[list[float], list[float]]:
    """How late each record came at a live tail of `run`, and how far the service said that it was behind, ten times a second."""
    delays: list[float] = []
    lags: list[float] = []
    tail = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    tail.request("GET", f"/api/v1/runs/{run}/tail?topic=telemetry.seed.health")
    response = tail.getresponse()
    ends = time.monotonic() + seconds

    def watch() -> None:
        ready = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while time.monotonic() < ends:
            ready.request("GET", "/readyz")
            lags.append(json.loads(ready.getresponse().read())["lag_s"])
            time.sleep(0.1)
        ready.close()

    watching = threading.Thread(target=watch)
    watching.start()
    while time.monotonic() < ends:
        try:
            line = response.readline()
        except TimeoutError:  # The writer was done a moment before.
            break
        if line.startswith(b"data: "):
            written = datetime.fromisoformat(json.loads(line[6:])["time"])
            delays.append((datetime.now(UTC) - written).total_seconds())
    watching.join()
    response.close()
    tail.close()
    return delays, lags


def until_followed(port: int, written: int) -> int:
    """How many records of live runs the metrics have counted, once they have all, or after ten seconds."""
    counters = tuple(f'esper_records_total{{topic="{topic}' for topic in ("telemetry.", "system.", "control."))
    deadline = time.monotonic() + 10
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        counted = sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(counters))
        if counted >= written or time.monotonic() > deadline:
            return counted
        time.sleep(0.2)


@contextmanager
def process(*command: str, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Python of its own, killed at the end."""
    running = subprocess.Popen((sys.executable, *command), stdout=stdout)
    try:
        yield running
    finally:
        running.kill()
        running.wait()
        if running.stdout is not None:
            running.stdout.close()


def wait_for(port: int, service: subprocess.Popen[bytes]) -> None:
    """Returns when the service is ready."""
    while service.poll() is None:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                connection.close()
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("esper nissa ended")


def processor_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def quantile(values: list[float], at: float) -> float:
    """A quantile in milliseconds; of nothing, NaN."""
    if len(values) < 2:
        return float("nan")
    return round(statistics.quantiles(values, n=1000, method="inclusive")[max(0, round(at * 1000) - 1)] * 1000, 2)


def show(figures: dict[str, float]) -> None:
    """The table."""
    table = Table(title=f"esper nissa for {figures['seconds']:g} s")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
