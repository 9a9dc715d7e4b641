"""A mirror: a directory that is filled from the topics, so that every reader of a directory works on a log on Kafka.

A run has one partition number in every topic. Its records are put together again by their rows (`merging`), and written as its writer wrote
them (`oona.mirrored`); derived records go beside it. Positions are saved after the records before them are durable: what is read again is
dropped. While records wait for others, the topics that are furthest behind are read alone, by the time at which records were sent; so
a history of any size passes through a bounded memory.

A row that is missing may still come: the markers that end a transaction reach the topics one after another, and an open transaction hides
what follows it. It is taken as gone only where retention has cut a topic of telemetry, and once everything has been read up to the high
watermarks, as they were after a later row had been read.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.partitioner import murmur2

from esper.errors import DataError, LogError
from esper.events.cloudevents import record_from
from esper.events.envelope import RunId
from esper.events.topics import RUN, TELEMETRY, TOPICS
from esper.kafka.clients import Message, administering, consuming, explain_errors, row_number_of
from esper.kafka.cluster import KafkaSettings
from esper.kafka.copying.mirrored_runs import Arrived, MirroredRuns
from esper.kafka.event_loop import pause
from esper.oona.directory import Directory
from esper.oona.file import write_mark
from esper.oona.lock import Lock

MIRROR_LOCK, POSITIONS_FILE = "mirror.lock", "positions"
_MOST_BYTES = 64 << 20
"""Records of one partition number that may wait for others before the topics behind are read alone."""
_MESSAGES, _WAIT_MS, _FETCH_MS = 2000, 50, 100
_LOOK_S, _LOOK_CLOSER_S, _SAVE_S = 1.0, 0.1, 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.2, 15.0, 60.0
_STUCK_S = 10.0
_ANSWER_S = 5.0
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class MirrorState:
    """The state of a mirror. `caught_up_at`: seconds since 1970; everything that was on Kafka then is in the directory. None before that.

    `behind`: messages that were not read at the last look, markers included. `error`: why Kafka or the disk is away, None while they are
    not. `stuck`: a transaction that does not end, and hides what follows it. `refused`: runs that are not copied any more, and why.
    """

    caught_up_at: float | None = None
    behind: int | None = None
    error: str | None = None
    stuck: str | None = None
    refused: dict[RunId, str] = field(default_factory=dict)
    unreadable: int = 0
    records: int = 0


class Mirror:
    """Fills `directory` from the cluster: `runs` alone, or every run. Holds the directory's lock while it runs."""

    def __init__(
        self,
        settings: KafkaSettings,
        directory: Directory,
        runs: frozenset[RunId] | None = None,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.state = MirrorState()
        self._settings, self._directory, self._only, self._jitter = settings, directory, runs, jitter

    async def run(self, stop: asyncio.Event, *, until_caught_up: bool = False) -> None:
        """Copies until `stop`, through failures of Kafka and the disk; `until_caught_up`: until everything that is there now is copied.

        Raises LogError where another process fills the directory, and with `until_caught_up` for whatever fails.
        """
        lock = Lock(self._directory.path / MIRROR_LOCK, f"the mirror at {self._directory.path}")
        pause_s = _FIRST_PAUSE_S
        try:
            while not stop.is_set():
                began_at = time.monotonic()
                try:
                    await self._copy(stop, until_caught_up)
                except LogError as error:
                    if until_caught_up:
                        raise
                    self.state.error = str(error)
                    pause_s = _FIRST_PAUSE_S if time.monotonic() > began_at + _STEADY_S else pause_s
                    await pause(stop, pause_s * (1 + self._jitter()))
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if until_caught_up:
                    return
        finally:
            lock.release()

    async def _copy(self, stop: asyncio.Event, until_caught_up: bool) -> None:
        cluster, partitions = await layout(self._settings)
        runs = MirroredRuns(self._directory)
        self.state.refused = runs.refused
        try:
            async with consuming(self._settings, fetch_wait_ms=_FETCH_MS) as reader, consuming(self._settings, committed=False) as looker:
                with explain_errors(self._settings):
                    copying = _Copying(self._settings, self._directory, self._only, runs, self.state, reader, looker)
                    await copying.begin(cluster, partitions)
                    self.state.error = None
                    while not stop.is_set() and not (until_caught_up and copying.is_done()):
                        await copying.turn()
                    await asyncio.to_thread(copying.save, now=True)
        finally:
            await asyncio.to_thread(runs.close)


class _Look(NamedTuple):
    """The high watermarks of one partition number at one time, and the highest row of each run that waited then."""

    time: float
    high: dict[TopicPartition, int]
    seen: dict[RunId, int]


@dataclass
class _Copying:
    """A connection to the cluster, from the saved positions on. `reader` reads what is committed, `looker` sees the high watermarks.

    By partition: `_read` is the position, `_sent` the times at which the last message read was sent and recorded, `_high` the high
    watermark at the last look, `_cut` the first offset that retention had left when it was last found to have cut something.
    """

    settings: KafkaSettings
    directory: Directory
    only: frozenset[RunId] | None
    runs: MirroredRuns
    state: MirrorState
    reader: AIOKafkaConsumer
    looker: AIOKafkaConsumer
    _cluster: str = ""
    _read: dict[TopicPartition, int] = field(default_factory=dict)
    _sent: dict[TopicPartition, tuple[int, datetime]] = field(default_factory=dict)
    _high: dict[TopicPartition, int] = field(default_factory=dict)
    _cut: dict[TopicPartition, int] = field(default_factory=dict)
    _first: dict[TopicPartition, int] = field(default_factory=dict)
    _looks: dict[int, _Look] = field(default_factory=dict)
    _reached: dict[int, float] = field(default_factory=dict)
    _began_at: float = field(default_factory=time.time)
    _looked_at: float = 0.0
    _saved_at: float = field(default_factory=time.monotonic)
    _moved_at: float = field(default_factory=time.monotonic)
    _answered_at: float = field(default_factory=time.monotonic)

    async def begin(self, cluster: str, partitions: int) -> None:
        """Goes to the saved positions. Raises LogError for those of another cluster, and for a topic that was made anew."""
        self._cluster = cluster
        numbers = range(partitions) if self.only is None else sorted({partition_of(run, partitions) for run in self.only})
        places = [TopicPartition(self.settings.topic(topic), number) for number in numbers for topic in TOPICS]
        # An offset of a topic that is not assigned makes aiokafka ask for the topics one after another, 0.1 s each.
        self.looker.assign(places)
        for place in places:
            self.looker.seek(place, 0)
        self.looker.pause(*places)
        begins, ends = await self.looker.beginning_offsets(places), await self.looker.end_offsets(places)
        await asyncio.to_thread(self.runs.find_unsealed)
        positions, self._cut = await asyncio.to_thread(self._saved, places)
        for place in places:
            position = positions.get(place, 0)
            if position > ends[place]:
                what = f"expected an end at {position} or later, got {ends[place]}: the topic was made anew"
                raise LogError(f"topic {place.topic}, partition {place.partition}: {what}; name another directory for the mirror")
            if position < begins[place]:
                self._cut[place] = begins[place]
            self._read[place] = max(position, begins[place])
        self._first = ends
        self.reader.assign(places)
        for place in places:
            self.reader.seek(place, self._read[place])

    async def turn(self) -> None:
        """Copies what is there, waiting a little for some, and looks around when it is time to."""
        asked = self._asked()
        found = await self.reader.getmany(*asked, timeout_ms=_WAIT_MS, max_records=_MESSAGES) if asked else {}
        if found:
            await asyncio.to_thread(self._take, found)
            self.state.records = self.runs.records
            for place in found:
                await self._advance(place)
        else:
            await asyncio.sleep(0 if asked else _WAIT_MS / 1000)
        closer = any(self.runs.waiting(number) for number in self._numbers()) or self.state.caught_up_at is None
        if time.monotonic() >= self._looked_at + (_LOOK_CLOSER_S if closer else _LOOK_S):
            await self._look()
            await asyncio.to_thread(self.save)

    def is_done(self) -> bool:
        """True once everything that was on Kafka at the beginning is written."""
        done = all(self._is_written(place, end) for place, end in self._first.items())
        if done:
            self.state.caught_up_at = max(self._began_at, self.state.caught_up_at or 0)
        return done

    def save(self, *, now: bool = False) -> None:
        """Saves the positions and seals what is settled, at most once a second, or `now`."""
        self.runs.settle(now=now)
        if not now and time.monotonic() < self._saved_at + _SAVE_S:
            return
        self._saved_at = time.monotonic()
        positions = dict(self._read)
        for number in self._numbers():
            for topic, offset in self.runs.offsets(number).items():
                positions[TopicPartition(self.settings.topic(topic), number)] = offset
        text = json.dumps(
            {"cluster": self._cluster, "prefix": self.settings.prefix, "positions": _flat(positions), "cut": _flat(self._cut)}, indent=0
        )
        for path in self._files():
            if path.parent.is_dir():
                write_mark(path, text)

    def _files(self) -> list[Path]:
        """The files of the positions: one for all runs, or one beside each."""
        if self.only is None:
            return [self.directory.path / POSITIONS_FILE]
        return [self.directory.path / run / POSITIONS_FILE for run in self.only]

    def _saved(self, places: list[TopicPartition]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """The furthest positions before which everything that is asked for is written, and what retention had cut before them."""
        every = self._parsed(self.directory.path / POSITIONS_FILE)
        positions: dict[TopicPartition, int] = {}
        cut = {place: every[1][place] for place in places if place in every[1]}
        own = [self._parsed(path) for path in self._files()] if self.only is not None else [every]
        for place in places:
            positions[place] = max(every[0].get(place, 0), min(found.get(place, 0) for found, _ in own))
            for _, found in own:
                if place in found:
                    cut[place] = max(cut.get(place, 0), found[place])
        return positions, cut

    def _parsed(self, path: Path) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        try:
            found: dict[str, Any] = json.loads(path.read_text())  # Any: looked through below.
            names = found["cluster"], found["prefix"]
            parsed = _places(found["positions"]), _places(found["cut"])
        except FileNotFoundError:
            return {}, {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, {}  # Everything is read again, and what is written is dropped.
        if names != (self._cluster, self.settings.prefix):
            expected = f"cluster {names[0]} and prefix {names[1]!r}, as {path} has them"
            got = f"cluster {self._cluster} and prefix {self.settings.prefix!r}"
            raise LogError(f"expected {expected}, got {got}: name another directory for the mirror")
        return parsed

    def _numbers(self) -> Iterable[int]:
        return sorted({place.partition for place in self._read})

    def _of(self, number: int) -> Iterator[TopicPartition]:
        return (place for place in self._read if place.partition == number)

    def _asked(self) -> list[TopicPartition]:
        """The partitions to read next: all, but where too much waits only the one that is furthest behind."""
        asked: list[TopicPartition] = []
        for number in self._numbers():
            places = list(self._of(number))
            if self.runs.waiting_bytes(number) > _MOST_BYTES:
                behind = [place for place in places if self._read[place] < self._high.get(place, self._first[place])]
                places = sorted(behind, key=lambda place: self._sent.get(place, (0, _NEVER)))[:1]
            asked += places
        return asked

    def _take(self, found: dict[TopicPartition, list[Message]]) -> None:
        arrived: list[Arrived] = []
        for place, messages in found.items():
            topic = place.topic.removeprefix(self.settings.prefix)
            for message in messages:
                if self.only is not None and (message.key or b"").decode(errors="replace") not in self.only:
                    self._sent[place] = message.timestamp, _NEVER
                    continue
                try:
                    record = record_from(message.headers, message.key, message.value, topic)
                    self._sent[place] = message.timestamp, record.time
                    arrived.append(Arrived(place.partition, message.offset, row_number_of(message), record))
                except DataError:
                    self.state.unreadable += 1  # No record of a run: its row, if it has one, is found missing.
        self.runs.take(arrived)

    async def _advance(self, place: TopicPartition) -> None:
        position = await self.reader.position(place)
        if position != self._read[place]:
            self._read[place], self._moved_at = position, time.monotonic()

    async def _look(self) -> None:
        """Compares what was read with the high watermarks: what is behind, what is caught up, which missing rows are gone."""
        for place in self._read:
            await self._advance(place)
        for number in self._numbers():
            look = self._looks.get(number)
            if look is not None and all(self._read[place] >= high for place, high in look.high.items()):
                del self._looks[number]
                self._reached[number] = look.time
                cut = [place.topic for place in self._of(number) if place in self._cut and self._topic(place) in TELEMETRY]
                await asyncio.to_thread(self.runs.pass_over, look.seen, cut)
        now = time.time()
        if not await self._look_at_ends():
            return
        for number in self._numbers():
            if number not in self._looks:
                high = {place: self._high[place] for place in self._of(number)}
                self._looks[number] = _Look(now, high, self.runs.waiting(number))
        self._looked_at = time.monotonic()
        self.state.behind = sum(max(0, high - self._read[place]) for place, high in self._high.items())
        if all(number in self._reached for number in self._numbers()):
            self.state.caught_up_at = min(self._reached.values())
        self.state.stuck = self._stuck() if self._looked_at > self._moved_at + _STUCK_S else None

    async def _look_at_ends(self) -> bool:
        """True where the cluster said how far its topics go; the state says where it did not. Raises LogError when that took too long."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                self._high = await self.looker.end_offsets(list(self._read))
        except TimeoutError:
            away_s = time.monotonic() - self._answered_at
            self.state.error = f"Kafka at {self.settings.bootstrap}: expected an answer, got none for {away_s:.0f} s"
            if away_s > self.settings.request_timeout_s:
                raise LogError(self.state.error) from None
            return False
        self._answered_at = time.monotonic()
        self.state.error = None
        return True

    def _stuck(self) -> str | None:
        """A partition whose last messages cannot be read, in words."""
        for place, high in self._high.items():
            if self._read[place] < high:
                where = f"topic {place.topic}, partition {place.partition}, offset {self._read[place]}"
                return f"{where}: a transaction has not ended; the {high - self._read[place]} messages from there on wait for it"
        return None

    def _topic(self, place: TopicPartition) -> str:
        name: str = place.topic
        return name.removeprefix(self.settings.prefix)

    def _is_written(self, place: TopicPartition, end: int) -> bool:
        waiting = self.runs.offsets(place.partition).get(self._topic(place), end)
        return self._read[place] >= end and waiting >= end


async def layout(settings: KafkaSettings) -> tuple[str, int]:
    """The id of the cluster, and the number of partitions that each of its topics has.

    Raises LogError for a topic that is missing, and for numbers that differ.
    """
    names = [settings.topic(topic) for topic in TOPICS]
    async with administering(settings) as admin:
        cluster = (await admin.describe_cluster())["cluster_id"]
        there = set(await admin.list_topics())
        if missing := [name for name in names if name not in there]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            what = f"expected topic {missing[0]}{more}, got none: make them with esper topics create, or look at `prefix` in kafka.toml"
            raise LogError(f"Kafka at {settings.bootstrap}: {what}")
        counts = {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics(names)}
    if len(set(counts.values())) != 1:
        least, most = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
        what = f"expected one number of partitions in all topics, got {counts[least]} in {least} and {counts[most]} in {most}"
        raise LogError(f"Kafka at {settings.bootstrap}: {what}")
    return str(cluster), counts[names[0]]


async def runs_on(settings: KafkaSettings) -> set[RunId]:
    """The runs on the cluster that are trainings or have facts: the keys of the topic of their starts and ends."""
    _, partitions = await layout(settings)
    places = [TopicPartition(settings.topic(RUN), number) for number in range(partitions)]
    found: set[RunId] = set()
    async with consuming(settings, fetch_wait_ms=_FETCH_MS) as reader:
        ends, begins = await reader.end_offsets(places), await reader.beginning_offsets(places)
        reader.assign(places)
        for place in places:
            reader.seek(place, begins[place])
        while any([await reader.position(place) < end for place, end in ends.items()]):
            for messages in (await reader.getmany(timeout_ms=_WAIT_MS)).values():
                found |= {RunId(message.key.decode(errors="replace")) for message in messages if message.key}
    return found


def partition_of(run: RunId, partitions: int) -> int:
    """The partition of `run` in every topic: the one that producers choose for its key."""
    return int((murmur2(run.encode()) & 0x7FFFFFFF) % partitions)


def _flat(places: dict[TopicPartition, int]) -> dict[str, int]:
    return {f"{place.topic} {place.partition}": offset for place, offset in sorted(places.items())}


def _places(flat: dict[str, int]) -> dict[TopicPartition, int]:
    split = ((name.rpartition(" "), int(offset)) for name, offset in flat.items())
    return {TopicPartition(topic, int(partition)): offset for (topic, _, partition), offset in split}
