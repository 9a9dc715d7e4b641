"""`esper nissa`: follows the log on a thread, serves metrics and the API, and writes the custom metrics that it receives by HTTP.

An observer runs beside it, in a process of its own, so that deriving takes no time from answering. Of a log on Kafka it serves the mirror,
and processes beside it fill that and deliver alerts; no observer runs there, for workers derive.
"""

import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from pydantic import JsonValue

from esper.errors import EsperError, LogError, SettingsError
from esper.events.envelope import RunId, is_training
from esper.events.kinds.run import RunFinished
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.history.open_runs import OpenRuns
from esper.history.run_list import RunList
from esper.history.trail import Acknowledgements
from esper.nissa.app import build_app
from esper.nissa.backend import Backend, Tails
from esper.nissa.connections import BoundedServer, ConnectionLimits, connections_within
from esper.nissa.custom_collectors import Collectors, find_collector
from esper.nissa.custom_metrics import CustomMetrics
from esper.nissa.kafka_status import read_kafka_status
from esper.nissa.metrics import FollowStatus, LogMetrics
from esper.nissa.problems import ProblemError
from esper.nissa.quota import Quota
from esper.nissa.service_settings import NissaSettings, token_of
from esper.observer.build import observer_maker
from esper.observer.delivery.delivery_file import delivery_settings
from esper.observer.delivery.handlers import build_handlers
from esper.observer.leader import OBSERVE_VARIABLE, observer_of
from esper.oona.daily_run import DailyRun
from esper.oona.directory import Directory
from esper.oona.follower import DerivedFollower, Follower, RunPage
from esper.oona.steady_clock import SteadyClock
from esper.processes.child import ChildProcess
from esper.stderr import warn

if TYPE_CHECKING:
    from esper.audit.asking import Asked, Scope
    from esper.processes.kafka_service import KafkaLog

_warn = partial(warn, program="esper nissa")
_POLL_S = 0.25
_COUNT_S = 1.0
_PAGE = 1000
_GRACE_S = 3
_M_ARENA_MAX = -8  # Of malloc.h.


class LogReader:
    """Reads the log as it grows, on a thread of its own, for metrics and tails. A fault ends it, sets `failed` and calls `on_failure`."""

    def __init__(
        self, directory: Directory, metrics: LogMetrics, notify: Callable[[Sequence[RunId]], None], finished: Callable[[RunId], None]
    ) -> None:
        """`finished` is called for a run that ended: its writer seals it once no other process holds its file open."""
        self._directory = directory
        self._metrics = metrics
        self._notify = notify
        self._finished = finished
        self._derived = DerivedFollower(directory)
        self._stopping = threading.Event()
        self._unreadable: set[RunId] = set()
        self._short = False
        self._caught_up_at: float | None = None
        self._sealed = 0
        self._grown: set[RunId] = set()
        self._gone: dict[RunId, int] = {}
        self._counted_at = -_COUNT_S
        self._thread = threading.Thread(target=self._run, name="esper-follower", daemon=True)
        self.failed = False
        self.on_failure: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the reading, and returns when it has ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        # The thread's outermost line: without it the service would go on and show what is no longer true.
        try:
            with Follower(self._directory, limit=_PAGE) as follower:
                wait_s = 0.0  # The first poll reads what is there.
                while not self._stopping.is_set():
                    self._take(follower.poll(wait_s), follower)
                    self._tell_shortage(follower)
                    wait_s = _POLL_S
                    for run, records in self._derived.poll(follower.live):
                        self._metrics.take_derived(records)
                        self._notify([run])
            return
        except EsperError as error:
            _warn(str(error))
        except Exception:
            traceback.print_exc(file=sys.stderr)
        self.failed = True
        self.on_failure()

    def _tell_shortage(self, follower: Follower) -> None:
        """Reports once that the log cannot be followed for now."""
        if follower.shortage is not None and not self._short:
            _warn(f"{follower.shortage}; trying again")
        self._short = follower.shortage is not None

    def _take(self, pages: tuple[RunPage, ...], follower: Follower) -> None:
        for page in pages:
            self._metrics.take(page.run, page.records)
            if page.error is not None:
                self._unreadable.add(page.run)
            elif page.records:
                self._unreadable.discard(page.run)
            if any(record.type == RunFinished.KIND for record in page.records):
                self._finished(page.run)
            if page.ended:
                self._metrics.forget(page.run)
            if page.records:
                self._grown.add(page.run)
        if follower.shortage is None and all(len(page.records) < _PAGE for page in pages):
            self._caught_up_at = time.time()
        self._notify([page.run for page in pages])
        if time.monotonic() >= self._counted_at + _COUNT_S:
            self._counted_at = time.monotonic()
            self._sealed = len(_trainings(follower.done))
            self._count_gone()
            self._metrics.forget_alerts(lambda run: not self._directory.has_log(run))
        self._metrics.status = self._status(follower)

    def _status(self, follower: Follower) -> FollowStatus:
        following = follower.following
        return FollowStatus(
            polled_at=time.time(),
            caught_up_at=self._caught_up_at,
            following=len(following),
            unreadable=len((self._unreadable & following) | self._derived.unreadable),
            live=_trainings(follower.live),
            interrupted=len(_trainings(following - follower.live)),
            sealed=self._sealed,
            gone=sum(self._gone.values()) if self._gone else None,
        )

    def _count_gone(self) -> None:
        """Counts the telemetry that copies of runs lack, of one that grew since the last time: a file is opened for it."""
        if self._grown:
            run = self._grown.pop()
            with suppress(LogError):  # The follower reports it.
                entry = self._directory.entry(run)
                if entry is not None and (entry.mirrored or entry.sealed):
                    with self._directory.open(run) as log:
                        if (gone := log.gone()) or run in self._gone:
                            self._gone[run] = gone.count


def _ask(directory: Directory, sql: str, *, parameters: Mapping[str, JsonValue], scope: "Scope") -> "Asked":
    from esper.audit.asking import ask

    return ask(directory, sql, parameters=parameters, scope=scope)


def _trainings(runs: frozenset[RunId]) -> frozenset[RunId]:
    """The trainings in `runs`, without the runs of machines and of nissa."""
    return frozenset(run for run in runs if is_training(run))


class Service:
    """Everything that serves one directory: made, started and closed together."""

    def __init__(self, directory: Directory, settings: NissaSettings, token: str | None, kafka: "KafkaLog | None" = None) -> None:
        """`directory` is the mirror of `kafka`, where there is one."""
        handlers = tuple(handler.name for handler in delivery_settings(directory.path if kafka is None else kafka.folder).handlers)
        self.directory, self.kafka, self._settings = directory, kafka, settings
        self.metrics = LogMetrics(CustomMetrics(self._record), handlers)
        self.metrics.kafka = partial(read_kafka_status, directory.path, mirrored=kafka is not None)
        self.runs = OpenRuns(directory)
        self.run_list = RunList(directory)
        self._custom_run = DailyRun(directory, "nissa", "nissa", SteadyClock(), instances=9)
        self._quota = Quota(settings.custom_per_s, settings.custom_per_day)
        tails = Tails(settings.tails)
        self.reader = LogReader(directory, self.metrics, tails.notify, self.runs.release)
        collectors = Collectors(self.metrics, [find_collector(path) for path in settings.collectors])
        backend = Backend(
            *(self.run_list, self.runs, self.metrics, collectors, settings, tails, partial(observer_of, directory)),
            ask=partial(_ask, directory),
            acknowledgements=Acknowledgements(directory),
            queries=threading.Semaphore(settings.queries),
            has_token=token is not None,
        )
        self.app: FastAPI = build_app(backend, version=version("esper-training"), token=token)

    def _record(self, samples: Sequence[CustomMetricRecorded]) -> None:
        if self.kafka is not None:
            detail = (
                "this service reads a log on Kafka and writes none: post to one that serves a directory with a bridge, or esper.measure"
            )
            raise ProblemError(501, "not-on-kafka", detail)
        self._quota.take(len(samples), self._custom_run.records)
        try:
            self._custom_run.append(samples)
        except EsperError as error:
            raise ProblemError(503, "not-recorded", "the log could not be written: nothing was recorded") from error

    def server(self, *, log_level: str, grace_s: int) -> uvicorn.Server:
        """A server of the application, within the limits of its settings; it waits `grace_s` for answers when it ends."""
        settings = self._settings
        connections = connections_within(settings.connections)
        if connections < settings.connections:
            _warn(f"at most {connections} connections at one time: the limit of open files allows no more (ulimit -n)")
        return BoundedServer(
            self.app,
            ConnectionLimits(connections, settings.request_s, settings.unread_s),
            log_level=log_level,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=grace_s,
            lifespan="on",
        )

    def close(self) -> None:
        """Ends the reading and closes every file."""
        self.reader.stop()
        self._custom_run.close()
        self.runs.close()


def observer_process(directory: Directory) -> ChildProcess:
    """`esper observe` for `directory`: it waits for the observer's lock like any other."""
    return ChildProcess("observer", ["observe", "--log", os.fspath(directory.path.absolute())], _warn)


def _processes_beside(directory: Directory, kafka: "KafkaLog | None") -> tuple[ChildProcess, ...]:
    """The processes beside the service; the last one delivers alerts. A mistake in rules or handlers is reported now, and not by them."""
    if kafka is None:
        observer_maker(directory)
        return (observer_process(directory),)
    from esper.processes.kafka_service import kafka_processes

    build_handlers(delivery_settings(kafka.folder))
    return kafka_processes(directory, kafka, _warn)


def _keep_memory_flat() -> None:
    """Has glibc keep two arenas in place of one for each of fifty threads: those never give back what large answers took.

    Measured by benchmarks/crowd.py: 178 MB throughout, in place of 142 that became 257 and more.
    """
    with suppress(OSError, AttributeError):  # Another C library.
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def listen(settings: NissaSettings) -> socket.socket:
    """A socket that listens at the host and port of `settings`. Raises SettingsError, with what to do, where it cannot."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol is named, or asyncio leaves Nagle's algorithm on: an answer in two writes then takes 40 ms (measured).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen at {settings.host} port {settings.port}: {error.strerror}. Prometheus uses 9090 too: "
            f"stop what listens there, or choose another port, for example --port {settings.port + 1}"
        ) from error
    return listener


def run_service(directory: Directory, settings: NissaSettings, announce: Callable[[str], None], kafka: "KafkaLog | None" = None) -> int:
    """Serves until SIGINT or SIGTERM. Returns 0, or 1 where the log could not be followed; `announce` is given the address.

    Of a log on Kafka `directory` is the mirror, which is filled meanwhile.
    """
    _keep_memory_flat()
    token = token_of(settings, directory.path)
    beside = _processes_beside(directory, kafka)
    listener = listen(settings)
    service = Service(directory, settings, token, kafka)
    server = service.server(log_level="warning", grace_s=_GRACE_S)

    def end(*_: object) -> None:
        server.should_exit = True

    service.reader.on_failure = end
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)  # uvicorn listens to signals only once it runs; an interrupt before that would be lost.
    service.reader.start()
    for process in beside[:-1] if os.environ.get(OBSERVE_VARIABLE) == "0" else beside:
        process.start()
    announce(f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}")
    try:
        server.run(sockets=[listener])
    finally:
        with ThreadPoolExecutor(len(beside)) as pool:
            list(pool.map(ChildProcess.stop, beside))
        service.close()
        listener.close()
    return 1 if service.reader.failed else 0
