"""`esper agent`: measures the machine that trains, and the telemetry that its log lost, into a run of its own. One per log.

What cannot be measured is absent: without a driver there are no GPUs, and the first load of the processor is known only after one interval.
"""

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import psutil

from esper.events.codec import decode_as
from esper.events.envelope import is_training
from esper.events.kinds.run import SamplesDropped
from esper.events.kinds.telemetry import Gpu, ResourcesMeasured
from esper.events.topics import RUN
from esper.observer.leader import AGENT_OUTPUT, rotate_output
from esper.oona.daily_run import DailyRun
from esper.oona.directory import Directory
from esper.oona.follower import Follower
from esper.oona.lock import Lock
from esper.oona.steady_clock import SteadyClock

AGENT_LOCK = "agent.lock"


class Gpus:
    """The GPUs that NVIDIA's driver knows. `library` is the module pynvml; None, or one that finds no driver: there are none."""

    def __init__(self, library: Any) -> None:  # Any: pynvml has no types; what it gives is checked by the event's model.
        self._library = library
        self._handles: list[Any] = []
        if library is None:
            return
        try:
            library.nvmlInit()
            self._handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        except library.NVMLError:
            self._handles = []

    def measure(self) -> Iterator[Gpu]:
        """Each GPU as its driver reports it now; one that has fallen off the bus is left out."""
        for index, handle in enumerate(self._handles):
            memory = self._query("nvmlDeviceGetMemoryInfo", handle)
            name = self._query("nvmlDeviceGetName", handle)
            if memory is None or name is None:
                continue
            rates = self._query("nvmlDeviceGetUtilizationRates", handle)
            power_mw = self._query("nvmlDeviceGetPowerUsage", handle)
            celsius = self._query("nvmlDeviceGetTemperature", handle, getattr(self._library, "NVML_TEMPERATURE_GPU", 0))
            yield Gpu(
                index=index,
                name=name.decode() if isinstance(name, bytes) else name,
                utilization=None if rates is None else rates.gpu / 100,
                memory_used_bytes=int(memory.used),
                memory_total_bytes=int(memory.total),
                temperature_celsius=None if celsius is None else float(celsius),
                power_watts=None if power_mw is None else power_mw / 1000,
            )

    def _query(self, function: str, *arguments: object) -> Any:
        """The driver's answer; None where this GPU has none (a partitioned one has no utilisation)."""
        try:
            return getattr(self._library, function)(*arguments)
        except self._library.NVMLError:
            return None


def nvml() -> Any:
    """The module pynvml; None where it is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


class Agent:
    """Measures one machine for one directory; holds the agent's lock. Use it in a `with` statement."""

    def __init__(self, directory: Directory, gpus: Gpus) -> None:
        """Raises LogError, with the pid, where another agent measures for this directory."""
        self._lock = Lock(directory.path / AGENT_LOCK, f"the machine of {directory.path}")
        self._path = directory.path
        # One agent writes, but today's run may be sealed, by one whose clock was ahead, or damaged.
        self._run = DailyRun(directory, "machine", "agent", SteadyClock(), instances=9)
        self._gpus = gpus
        self._follower = Follower(directory, topics=frozenset({RUN}))
        self._dropped = 0
        psutil.cpu_percent(interval=None)  # The first call measures nothing: it only begins.

    def record(self) -> None:
        """Measures the machine, the processor's load since the last call, and makes the record durable."""
        memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(str(self._path)), psutil.net_io_counters()
        measured = ResourcesMeasured(
            cpu_utilization=psutil.cpu_percent(interval=None) / 100,
            memory_used_bytes=memory.total - memory.available,
            memory_total_bytes=memory.total,
            disk_free_bytes=disk.free,
            disk_total_bytes=disk.total,
            network_received_bytes=network.bytes_recv,
            network_sent_bytes=network.bytes_sent,
            gpus=tuple(self._gpus.measure()),
            log_dropped_samples=self._count_dropped(),
        )
        self._run.append([measured])

    def _count_dropped(self) -> int:
        """The telemetry that runs reported as dropped: those that had not ended when the agent began."""
        while pages := self._follower.poll(0.0):
            records = (record for page in pages for record in page.records if record.type == SamplesDropped.KIND)
            self._dropped += sum(decode_as(record, SamplesDropped).count for record in records)
        return self._dropped

    @property
    def idle(self) -> bool:
        """True when no process wrote a training when it last measured."""
        return not any(is_training(run) for run in self._follower.live)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends the stream and releases the lock."""
        try:
            self._run.close()
        finally:
            self._follower.close()
            self._lock.release()


def run_agent(directory: Directory, interval_s: float, stopped: threading.Event, leave_after_s: float | None = None) -> None:
    """Measures every `interval_s` until `stopped`, or until no training was written for `leave_after_s` (None: without this end).

    Raises LogError where another agent measures, or the log cannot be written.
    """
    with Agent(directory, Gpus(nvml())) as agent:
        busy_at = time.monotonic()
        while not stopped.wait(interval_s):
            agent.record()
            rotate_output(directory.path / AGENT_OUTPUT)
            if not agent.idle:
                busy_at = time.monotonic()
            elif leave_after_s is not None and time.monotonic() >= busy_at + leave_after_s:
                return
