"""`esper nissa`: follows the log on a thread, serves what it finds, and writes the custom metrics that come by HTTP.

Beside it a process of its own offers to observe: see `observer_child`.
"""

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from types import FrameType

import uvicorn
from fastapi import FastAPI

from esper.errors import EsperError, SettingsError
from esper.events.envelope import Record, RunId, is_training
from esper.events.kinds.run import RunFinished
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.nissa.app import build_app
from esper.nissa.collectors import Collectors, find_collector
from esper.nissa.custom import CustomMetrics
from esper.nissa.metrics import FollowStatus, LogMetrics
from esper.nissa.parts import Parts
from esper.nissa.settings import TOKEN_VARIABLE, NissaSettings, check_token, is_loopback
from esper.nissa.source import Freshness, NotRecordedError
from esper.nissa.wake import Wake
from esper.observer.build import observer_maker
from esper.observer.delivering import delivery_settings
from esper.observer.leader import observer_of
from esper.oona.daily_run import DailyRun
from esper.oona.directory import Directory
from esper.oona.follower import Batch, Follower
from esper.oona.observed_follower import DerivedFollower
from esper.processes.log_source import LogSource
from esper.processes.observer_child import ObserverChild

POLL_S = 0.25
COUNT_S = 1.0
PAGE = 1000
_GRACE_S = 3


class Following:
    """Reads the log as it grows, on a thread of its own, for the model and the tails. A fault ends it, and `failed` is called."""

    def __init__(self, directory: Directory, metrics: LogMetrics, wake: Wake) -> None:
        self._directory = directory
        self._metrics = metrics
        self._wake = wake
        self._derived = DerivedFollower(directory)
        self._stopping = threading.Event()
        self._troubled: set[RunId] = set()
        self._caught_up_at: float | None = None
        self._sealed = 0
        self._counted_at = -COUNT_S
        self._thread = threading.Thread(target=self._run, name="esper-follower", daemon=True)
        self.failed: Callable[[], None] = lambda: None
        self.finished: Callable[[RunId], None] = lambda _run: None

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the reading, and returns when it has ended."""
        self._stopping.set()
        self._thread.join()

    def freshness(self) -> Freshness:
        """How far it has read."""
        status = self._metrics.status
        lag_s = None if status.caught_up_at is None else max(0.0, time.time() - status.caught_up_at)
        return Freshness(lag_s, status.following, len(status.live), observer_of(self._directory))

    def firing(self) -> Sequence[Record]:
        """The AlertFiring of every alert that fires now."""
        return [record for record, _ in self._metrics.firing()]

    def _run(self) -> None:
        # The thread's outermost line: without it the service would go on and show what is no longer true.
        try:
            with Follower(self._directory, limit=PAGE) as follower:
                wait_s = 0.0  # What stands there already is news at once.
                while not self._stopping.is_set():
                    self._take(follower.poll(wait_s), follower)
                    wait_s = POLL_S
                    self._take_derived(follower.live)
        except EsperError as error:
            sys.stderr.write(f"esper nissa: {error}\n")
            self.failed()
        except Exception:
            traceback.print_exc(file=sys.stderr)
            self.failed()

    def _take(self, batches: tuple[Batch, ...], follower: Follower) -> None:
        for batch in batches:
            self._metrics.take(batch.run, batch.page.records)
            if batch.error is not None:
                self._troubled.add(batch.run)
            elif batch.page.records:
                self._troubled.discard(batch.run)
            if any(record.type == RunFinished.KIND for record in batch.page.records):
                self.finished(batch.run)
            if batch.ended:
                self._metrics.forget(batch.run)
        if all(len(batch.page.records) < PAGE for batch in batches):
            self._caught_up_at = time.time()
        self._wake.ring(batch.run for batch in batches)
        following = follower.following
        if time.monotonic() >= self._counted_at + COUNT_S:
            self._counted_at = time.monotonic()
            self._sealed = len(_trainings(follower.done))
            self._metrics.forget_alerts(lambda run: not self._directory.has_log(run))
        self._metrics.status = FollowStatus(
            polled_at=time.time(),
            caught_up_at=self._caught_up_at,
            following=len(following),
            unreadable=len((self._troubled & following) | self._derived.unreadable),
            live=_trainings(follower.live),
            interrupted=len(_trainings(following - follower.live)),
            sealed=self._sealed,
        )

    def _take_derived(self, live: frozenset[RunId]) -> None:
        for run, records in self._derived.poll(live):
            self._metrics.take_derived(run, records)
            self._wake.ring((run,))


def _trainings(runs: frozenset[RunId]) -> frozenset[RunId]:
    """Those of `runs` that are about a training; machines' and nissa's own are not."""
    return frozenset(run for run in runs if is_training(run))


class Service:
    """Everything that serves one directory: made, started and closed together."""

    def __init__(self, directory: Directory, settings: NissaSettings, token: str | None) -> None:
        handlers = tuple(handler.name for handler in delivery_settings(directory).handlers)
        self.metrics = metrics = LogMetrics(CustomMetrics(self._record), handlers)
        self.directory = directory
        self.wake = Wake(settings.tails)
        self.custom = DailyRun(directory, "nissa", "nissa", lambda: datetime.now(UTC), instances=9)
        self.following = Following(directory, metrics, self.wake)
        self.source = LogSource(directory, following=self.following, record=self._record)
        self.following.finished = self.source.release
        self.collectors = Collectors(metrics, [find_collector(path) for path in settings.collectors])
        parts = Parts(self.source, metrics, self.collectors, self.wake, settings)
        self.app: FastAPI = build_app(parts, version=version("esper-training"), token=token)

    def _record(self, samples: Sequence[CustomMetricRecorded]) -> None:
        try:
            self.custom.append(samples)
        except EsperError as error:
            raise NotRecordedError("custom metrics could not be written") from error

    def close(self) -> None:
        """Lets go of everything."""
        self.following.stop()
        self.custom.close()
        self.source.close()


class _Server(uvicorn.Server):
    """uvicorn, which ends the live tails when it is told to end: they would keep it waiting."""

    def __init__(self, config: uvicorn.Config, wake: Wake) -> None:
        super().__init__(config)
        self._wake = wake

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends the server."""
        self._wake.close()
        super().handle_exit(sig, frame)


def token_of(settings: NissaSettings) -> str | None:
    """The token that requests must bring; None where none is set and none is needed. Raises SettingsError."""
    if settings.token_file is not None:
        try:
            text = settings.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"setting nissa.token_file: cannot read {settings.token_file}") from error
        return check_token(text, f"setting nissa.token_file, {settings.token_file}")
    set_token = os.environ.get(TOKEN_VARIABLE)
    if set_token:
        return check_token(set_token, f"the environment variable {TOKEN_VARIABLE}")
    if not is_loopback(settings.host):
        raise SettingsError(
            f"setting nissa.host: {settings.host} can be reached by other machines, so a token is needed: "
            f"put one into a file and name it with --token-file, or into {TOKEN_VARIABLE}"
        )
    return None


def listen(settings: NissaSettings) -> socket.socket:
    """A socket that listens where the settings say. Raises SettingsError that says what to do where it cannot."""
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


def serve(directory: Directory, settings: NissaSettings, announce: Callable[[str], None]) -> int:
    """Serves until it is told to end. Returns 0, or 1 where the following failed; `announce` is told where it listens."""
    token = token_of(settings)
    observer_maker(directory)  # A mistake in rules or handlers is told now, and not by an observer that ends.
    listener = listen(settings)
    service = Service(directory, settings, token)
    config = uvicorn.Config(
        service.app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_GRACE_S, lifespan="on"
    )
    server = _Server(config, service.wake)
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        server.should_exit = True

    service.following.failed = fail

    def end(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn listens to signals only once it runs; before, an interrupt could be lost in whatever Python does just then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    observer = ObserverChild(directory)
    service.following.start()
    observer.start()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    announce(f"http://{host}:{settings.port}")
    try:
        server.run(sockets=[listener])
    finally:
        observer.stop()
        service.close()
        listener.close()
    return 1 if failed.is_set() else 0
