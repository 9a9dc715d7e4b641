"""Claims: which copy of a run may ship it, and how far it is on Kafka. One message a run in the compacted topic `bridge.claims`.

A claim names the token of a copy (a random word that stands in the run's folder), and the last record that is on Kafka. Every transaction
of a bridge writes the claim anew, so claim and records never differ. A producer that was fenced proves nothing: a machine that slept for
longer than a transaction may last is fenced too. So after every start of a producer its bridge reads the claim:

* None: the run was never shipped. The first transaction claims it.
* Its own token, and the run's folder holds the very record that the claim names: it goes on behind that record.
* Its own token, but another record or none at that row: the folder was copied or restored from a backup, and the run went on elsewhere.
* Another token: another directory has taken the run over (`take_over`).

In the last two cases nothing is written, ever again. Two copies with one token that both train therefore never contradict each other on
Kafka: the first to ship goes on, and the other one finds a record that is not its own.

Reading is safe because of three things. The producer starts first: what its predecessors left open is aborted, so each earlier claim of the
run is committed or aborted by now. The end to read to is the offset of a probe that is then written, acknowledged by all replicas, and
aborted: a new leader may not know the end of its partition yet, but it never gives an offset before it. And transactions of *other* runs
that are still open hide what stands behind them from a `read_committed` reader: so the offset of the run's last claim is looked up
uncommitted, and the committed reader waits until it has passed it.
"""

import asyncio
import secrets
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from pydantic import BaseModel, ConfigDict, ValidationError

from esper.durable import replace_durably
from esper.errors import LogError
from esper.events.envelope import Record, RunId
from esper.events.topics import TELEMETRY
from esper.kafka.clients import FencedError, Outgoing, consuming, explain_errors, messages_between, producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import CLAIMS
from esper.kafka.transactions import transact
from esper.oona.contract import Position
from esper.oona.directory import Directory
from esper.oona.file import FENCED_MARK, RUN_FILE

CLAIM_FILE = "claim"
_ATTEMPTS = 20
# Other runs' transactions end within 60 s, and the broker looks for expired ones every 10 s.
_DECIDED_S = 120.0


class TakenOverError(LogError):
    """Another copy of the run is shipped: nothing more of this one may be."""


class ClaimedEnd(BaseModel):
    """The last record of a topic of telemetry, which retention may have cut when the run is resumed elsewhere."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    sequence: int
    chain: str
    epoch: int
    step: int


class Claim(BaseModel):
    """The copy of a run with `token` may ship it; `row` records of it are on Kafka, the last one with `chain` at `moment`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    token: str
    holder: str
    """host:path of the directory, for people."""
    since: str
    row: int = 0
    moment: int = 0
    chain: str = ""
    tails: dict[str, ClaimedEnd] = {}

    def after(self, records: Sequence[Record], row: int) -> "Claim":
        """The claim when `records` are on Kafka too, the last of them at `row`."""
        last = records[-1]
        found = {
            record.topic: ClaimedEnd(sequence=record.sequence or 0, chain=_chain(record), epoch=record.epoch, step=record.step)
            for record in records
            if record.topic in TELEMETRY
        }
        return self.model_copy(update={"row": row, "moment": last.moment, "chain": _chain(last), "tails": self.tails | found})

    def outgoing(self, settings: KafkaSettings, run: RunId) -> Outgoing:
        """The message of the claim."""
        return Outgoing(settings.topic(CLAIMS), run.encode(), self.model_dump_json().encode(), [])


def transactional_id(run: RunId) -> str:
    """The transactional id of the one process that may ship `run`."""
    return f"bridge-{run}"


async def own_claim(producer: AIOKafkaProducer, settings: KafkaSettings, directory: Directory, run: RunId) -> Claim:
    """The claim under which the copy of `run` in `directory` is shipped on. `producer` has the id of the run, and has just been started.

    Raises TakenOverError where another copy is shipped, LogError where that cannot be found out now.
    """
    claim = await read_claim(producer, settings, run)
    token = await asyncio.to_thread(claim_token_of, directory.path / run)
    if claim is None:
        return new_claim(directory, token)
    if claim.token != token:
        raise TakenOverError(f"run {run} was taken over by {claim.holder} on {claim.since}")
    if not await asyncio.to_thread(_holds, directory, run, claim):
        raise TakenOverError(
            f"run {run} went on in another copy of its directory: expected record {claim.row} to be the one on Kafka, got another or none"
        )
    return claim


async def take_over(settings: KafkaSettings, directory: Directory, run: RunId) -> Claim:
    """Claims `run`, which was shipped before, for `directory`; its token stands in the run's folder. Whoever shipped it is fenced.

    Every record that was shipped before is on Kafka and committed when this returns, and no other follows but those of this claim. Raises
    LogError where nobody ever shipped the run, and where the cluster fails.
    """
    folder = directory.path / run
    for _ in range(_ATTEMPTS):
        try:
            async with producing(settings, transactional_id(run)) as producer:
                claim = await read_claim(producer, settings, run)
                if claim is None:
                    raise LogError(f"Kafka at {settings.bootstrap}: expected run {run}, which a bridge has shipped, got none")
                own = new_claim(directory, await asyncio.to_thread(_write_token, folder))
                taken = claim.model_copy(update={"token": own.token, "holder": own.holder, "since": own.since})
                await transact(producer, settings, [taken.outgoing(settings, run)])
                (folder / FENCED_MARK).unlink(missing_ok=True)
                return taken
        except FencedError:  # The other bridge began again meanwhile; it pauses before it does so once more.
            continue
    raise LogError(f"run {run} could not be taken over: its bridge began again {_ATTEMPTS} times meanwhile; end it")


def new_claim(directory: Directory, token: str) -> Claim:
    """The claim of a copy in `directory`, before its first record is on Kafka."""
    holder = f"{socket.gethostname()}:{directory.path.absolute()}"
    return Claim(token=token, holder=holder, since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")


async def read_claim(producer: AIOKafkaProducer, settings: KafkaSettings, run: RunId) -> Claim | None:
    """The last committed claim of `run`; None where it was never claimed. `producer` has the id of the run, and has just been started."""
    key = run.encode()
    with explain_errors(settings):
        await producer.begin_transaction()
        probe = await producer.send_and_wait(settings.topic(CLAIMS), b"probe", key=key)
        await producer.abort_transaction()
    place = TopicPartition(probe.topic, probe.partition)
    offsets = await _offsets_of(key, place, probe.offset, settings)
    found = await _last_committed(key, place, offsets, settings) if offsets else None
    return None if found is None else _parsed(found, run)


async def _offsets_of(key: bytes, place: TopicPartition, before: int, settings: KafkaSettings) -> list[int]:
    """The offsets of messages with that key, committed or not."""
    async with consuming(settings, fetch_wait_ms=20, committed=False) as consumer:
        begin = (await consumer.beginning_offsets([place]))[place]
        return [one.offset async for one in messages_between(consumer, place, begin, before) if one.key == key]


async def _last_committed(key: bytes, place: TopicPartition, offsets: Sequence[int], settings: KafkaSettings) -> bytes | None:
    """The last value with that key at one of `offsets` that was committed. Raises LogError where a transaction stays open."""
    found: bytes | None = None
    async with consuming(settings, fetch_wait_ms=20) as consumer:
        try:
            async with asyncio.timeout(_DECIDED_S):
                async for one in messages_between(consumer, place, offsets[0], offsets[-1] + 1):
                    found = one.value if one.key == key else found
        except TimeoutError as error:
            where = f"topic {place.topic}, partition {place.partition}"
            raise LogError(
                f"Kafka at {settings.bootstrap}: expected the transactions of {where} to end, got one that stays open"
            ) from error
    return found


def _parsed(value: bytes, run: RunId) -> Claim:
    try:
        return Claim.model_validate_json(value)
    except ValidationError as error:
        raise LogError(f"expected the claim of run {run}, got {value[:100]!r}: was it written by a newer version?") from error


def _holds(directory: Directory, run: RunId, claim: Claim) -> bool:
    """True where the run's folder holds the last record that is on Kafka, or had it before retention cut it from what was copied down."""
    if claim.row == 0:
        return True
    with directory.open(run) as log:
        if log.end().row(RUN_FILE) < claim.row:
            return log.gone().row == claim.row  # The last records were gone when it was copied down.
        page = log.read(Position.at(RUN_FILE, claim.row - 1), 1)
        # In a folder that was filled from Kafka, rows that retention had cut are missing: the next one is found.
        return page.position.row(RUN_FILE) > claim.row or _chain(page.records[0]) == claim.chain


def _chain(record: Record) -> str:
    return (record.chain or b"").hex()


def claim_token_of(folder: Path) -> str:
    """The token of the copy of a run in `folder`, made where there is none."""
    return _read_token(folder) or _write_token(folder)


def _read_token(folder: Path) -> str | None:
    try:
        return (folder / CLAIM_FILE).read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _write_token(folder: Path) -> str:
    token = secrets.token_hex(8)
    folder.mkdir(exist_ok=True)
    replace_durably(folder / CLAIM_FILE, f"{token}\n".encode())
    return token
