"""The runs of a mirror: records that come from Kafka in any order of topics become the files of a directory. Synchronous; one thread.

A run whose records contradict each other, or lack a fact, is refused: it keeps what is written, a mark with the reason, and gets nothing
more. The others go on.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from esper.errors import DataError
from esper.events.envelope import Record, RunId
from esper.events.kinds.run import RunFinished
from esper.events.topics import DERIVED
from esper.history.alert_lines import alerts_of
from esper.kafka.copying.merging import RowMerge
from esper.oona.contract import ConflictError
from esper.oona.directory import Directory
from esper.oona.file import REFUSED_MARK, RUN_FILE, in_mark, read_mark, read_refused, write_mark
from esper.oona.mirrored import MirroredRun, differing
from esper.oona.observed import Observed, is_observed, is_settled

_OPEN_AT_ONCE = 32
_QUIET_S = 2.0
_SEAL_AGAIN_S = 10.0


class Arrived(NamedTuple):
    """A record that was read from Kafka. `row` is None on a derived one."""

    partition: int
    offset: int
    row: int | None
    record: Record


class _Run:
    """A run's records on their way. `merge` is None once it is sealed or refused; `last` is its last row."""

    __slots__ = ("merge", "partition", "sealed_to")

    def __init__(self, partition: int, merge: RowMerge | None, sealed_to: int) -> None:
        self.partition, self.merge, self.sealed_to = partition, merge, sealed_to


class MirroredRuns:
    """The runs of `directory`. Methods raise LogError where the disk fails: what was taken and not written is read again then."""

    def __init__(self, directory: Directory) -> None:
        self.refused: dict[RunId, str] = {}
        self.records = self.conflicts = 0
        self._directory = directory
        self._runs: dict[RunId, _Run] = {}
        self._files: OrderedDict[RunId, MirroredRun] = OrderedDict()
        self._observed: OrderedDict[RunId, Observed] = OrderedDict()
        self._unsettled: dict[RunId, float] = {}
        self._unsealed: set[RunId] = set()
        self._sealed_at = -_SEAL_AGAIN_S

    def take(self, arrived: Iterable[Arrived]) -> None:
        """Writes the records whose predecessors are there; the others wait."""
        own: dict[RunId, list[Arrived]] = {}
        derived: dict[RunId, list[Record]] = {}
        for one in arrived:
            if one.record.topic in DERIVED:
                derived.setdefault(one.record.run, []).append(one.record)
            else:
                own.setdefault(one.record.run, []).append(one)
        for name, found in own.items():
            with self._refusing(name):
                self._take_run(name, found)
        for name, records in derived.items():
            self._take_derived(name, records)

    def waiting_bytes(self, partition: int) -> int:
        """The size of the records of `partition` that wait for others."""
        return sum(run.merge.size_bytes for run in self._of(partition) if run.merge is not None)

    def offsets(self, partition: int) -> Mapping[str, int]:
        """The least offset that waits, by topic."""
        least: dict[str, int] = {}
        for run in self._of(partition):
            for topic, offset in run.merge.offsets().items() if run.merge else ():
                least[topic] = min(offset, least.get(topic, offset))
        return least

    def waiting(self, partition: int) -> dict[RunId, int]:
        """The runs of `partition` with records that wait, and the highest row of each."""
        return {name: run.merge.highest for name, run in self._runs.items() if run.partition == partition and run.merge}

    def pass_over(self, seen: Mapping[RunId, int], cut: Iterable[str]) -> None:
        """Takes the rows that are missing before those in `seen` as gone. `cut` names the telemetry topics that retention has cut.

        Everything that Kafka has of these runs before those rows has been taken.
        """
        topics = tuple(cut)
        for name, row in seen.items():
            run = self._runs.get(name)
            if run is None or run.merge is None or not 0 < run.merge.lowest <= row:
                continue
            with self._refusing(name):
                if not topics:
                    first = run.merge.last + 1
                    raise ConflictError(f"expected row {first} of its log on Kafka, got none, and no telemetry was deleted there")
                self._write(name, run, row)

    def find_unsealed(self) -> None:
        """Looks for finished runs that readers, or the end of a former mirror, kept from being sealed: `settle` seals them."""
        for name in self._directory.names(hidden=True):
            entry = self._directory.entry(name)
            if entry is not None and entry.mirrored and not (entry.sealed or entry.live):
                with self._directory.open(name) as log:
                    if [record.type for record in log.last()] == [RunFinished.KIND]:
                        self._unsealed.add(name)

    def settle(self, *, now: bool = False) -> None:
        """Seals finished runs, and the observed files of sealed ones of which nothing is pending or firing and nothing came lately.

        `now` does not wait for that. A file that a reader holds open is tried again later.
        """
        if self._unsealed and time.monotonic() >= self._sealed_at + _SEAL_AGAIN_S:
            self._sealed_at = time.monotonic()
            self._unsealed = {name for name in self._unsealed if not self._seal(name)}
        for name, at in list(self._unsettled.items()):
            folder = self._directory.path / name
            if not now and time.monotonic() < at + _QUIET_S:
                continue
            del self._unsettled[name]
            if read_mark(folder) is not None and is_observed(folder) and not is_settled(folder):
                with self._refusing(name):
                    if all(line.status == "resolved" for line in alerts_of(self._directory, name)):
                        self._opened(self._observed, name, lambda name=name: self._observe(name)).seal()  # type: ignore[misc]
                        del self._observed[name]

    def close(self) -> None:
        """Closes every file."""
        for files in (self._files, self._observed):
            while files:
                files.popitem()[1].close()

    def _take_run(self, name: RunId, found: list[Arrived]) -> None:
        run = self._known(name, found[0].partition)
        if name in self.refused:
            return
        again: list[tuple[int, Record]] = []
        for _, offset, row, record in found:
            if row is None:
                raise ConflictError(f"{record.topic}, offset {offset}: expected a header with the record's row, got none")
            if run.merge is None and row > run.sealed_to:
                raise ConflictError(f"expected no record after row {run.sealed_to}, its end, got row {row}")
            if run.merge is None or not run.merge.take(row, offset, record):
                again.append((row, record))
        if again and (row := differing(self._directory.path / name, again)) is not None:
            raise ConflictError(f"row {row}: expected the record that was copied before, got another in its place")
        if run.merge is not None:
            self._write(name, run)

    def _write(self, name: RunId, run: _Run, gone_to: int = 0) -> None:
        assert run.merge is not None, "a sealed run takes nothing"
        rows = list(run.merge.ready(gone_to))
        if not rows:
            return
        writer = rows[0][1].writer
        copy = self._opened(self._files, name, lambda: MirroredRun(self._directory.path / name, name, writer))
        copy.append(rows)
        self.records += len(rows)
        if rows[-1][1].type == RunFinished.KIND:
            if not copy.seal():
                self._unsealed.add(name)
            self._files.pop(name).close()
            run.merge, run.sealed_to = None, rows[-1][0]
            self._unsettled[name] = time.monotonic()

    def _seal(self, name: RunId) -> bool:
        """Seals the copy of a run that has ended; False where a reader holds it open."""
        with self._directory.open(name) as log:
            writer = log.writer
        with MirroredRun(self._directory.path / name, name, writer) as copy:
            return copy.seal()

    def _take_derived(self, name: RunId, records: list[Record]) -> None:
        store = self._opened(self._observed, name, lambda: self._observe(name))
        try:
            store.save(records)
        except ConflictError:
            for record in records:  # Those that contradict what was derived before are left out, and counted.
                try:
                    store.save((record,))
                except ConflictError:
                    self.conflicts += 1
        self._unsettled[name] = time.monotonic()

    def _observe(self, name: RunId) -> Observed:
        folder = self._directory.path / name
        folder.mkdir(exist_ok=True)
        return Observed(folder, name)

    def _known(self, name: RunId, partition: int) -> _Run:
        """The state of a run; that of its files where it is new here."""
        if name not in self._runs:
            folder = self._directory.path / name
            if (reason := read_refused(folder)) is not None:
                self.refused[name] = reason
            mark, last = read_mark(folder), 0
            if mark is not None:
                last = in_mark(mark, "records", int) or 0
            elif self._directory.has_log(name):
                with self._directory.open(name) as log:
                    last = log.end().row(RUN_FILE)
                    finished = [record.type for record in log.last()] == [RunFinished.KIND]
                if finished:
                    mark = ""
                    self._unsealed.add(name)
            self._runs[name] = _Run(partition, None if mark is not None else RowMerge(last), last)
        return self._runs[name]

    def _of(self, partition: int) -> Iterator[_Run]:
        return (run for run in self._runs.values() if run.partition == partition)

    def _opened(self, files: "OrderedDict[RunId, _File]", name: RunId, make: "Callable[[], _File]") -> "_File":
        if name not in files:
            files[name] = make()
            if len(files) > _OPEN_AT_ONCE:
                files.popitem(last=False)[1].close()
        files.move_to_end(name)
        return files[name]

    @contextmanager
    def _refusing(self, name: RunId) -> Iterator[None]:
        """Within, a contradiction refuses the run."""
        try:
            yield
        except (DataError, ConflictError) as error:
            reason = f"run {name}: {error}"
            self.refused[name] = reason
            folder: Path = self._directory.path / name
            folder.mkdir(exist_ok=True)
            write_mark(folder / REFUSED_MARK, reason + "\n")
            self._runs[name].merge = None
            if (copy := self._files.pop(name, None)) is not None:
                copy.close()


class _Closable(Protocol):
    def close(self) -> None: ...


_File = TypeVar("_File", bound=_Closable)
