"""Producers, consumers and administration of one cluster, and aiokafka's errors in words.

Every reader reads `read_committed`: a bridge or a ledger that failed leaves records behind that were never committed. The largest record
has 8 MB.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NamedTuple, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFenced,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    UnsupportedVersionError,
)

from esper.errors import DataError, LogError
from esper.events.cloudevents import headers
from esper.events.envelope import Record
from esper.kafka.cluster import KafkaSettings
from esper.kafka.probing import probing

LARGEST_BYTES = 8 * 1024 * 1024
ROW_HEADER = "row"
"""Where a record stands in its run's log. It belongs to the message, as an offset does: the record is the same without it."""
TRANSACTION_TIMEOUT_S = 60
_STOP_S = 3.0
_ROW = re.compile(rb"[1-9][0-9]{0,18}")

# Without a handler Python prints its warnings, several a second while a broker is away. What matters stands in the errors.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


Message: TypeAlias = "ConsumerRecord[bytes, bytes]"


class FencedError(LogError):
    """A newer process writes under the same transactional id: this one must not write any more."""


@asynccontextmanager
async def producing(settings: KafkaSettings, transactional_id: str) -> AsyncIterator[AIOKafkaProducer]:
    """A transactional producer. When it is entered, former ones of its id are fenced and what they left open is aborted.

    Raises LogError for a cluster that cannot be used, FencedError where a newer producer of the id began.
    """
    with explain_errors(settings):
        producer = AIOKafkaProducer(
            **settings.client(),
            transactional_id=settings.topic(transactional_id),
            transaction_timeout_ms=TRANSACTION_TIMEOUT_S * 1000,
            acks="all",
            compression_type=None if settings.compression == "none" else settings.compression,
            max_request_size=LARGEST_BYTES,
            linger_ms=2,
        )
        try:
            await _start(producer, settings)
            yield producer
        finally:
            await producer.stop()


@asynccontextmanager
async def consuming(settings: KafkaSettings, *, fetch_wait_ms: int = 500, committed: bool = True) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer that belongs to no group and commits nothing: the caller assigns partitions, and seeks in each before it reads.

    Without `committed` it reads what transactions have left open or aborted, too, and its ends are the high
    watermarks, which no open transaction holds back.
    """
    with explain_errors(settings):
        consumer = AIOKafkaConsumer(
            **settings.client(),
            isolation_level="read_committed" if committed else "read_uncommitted",
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=fetch_wait_ms,
            max_partition_fetch_bytes=LARGEST_BYTES,
        )
        try:
            await _start(consumer, settings)
            yield consumer
        finally:
            # aiokafka 0.14: the task that fetches may lose its cancellation, and `stop` then waits for it for ever. While a broker is away,
            # `stop` raises the CancelledError of a fetch that it cancelled, as if this task were cancelled, and leaves its client open.
            stopping = asyncio.create_task(consumer.stop())
            await asyncio.wait([stopping], timeout=_STOP_S)
            if not stopping.done() or stopping.cancelled() or stopping.exception():
                stopping.cancel()
                await consumer._client.close()  # Private: there is no other way to it.


@asynccontextmanager
async def joining(
    settings: KafkaSettings, group: str, topic: str, listener: ConsumerRebalanceListener, *, session_s: float, rebalance_s: float
) -> AsyncIterator[AIOKafkaConsumer]:
    """A member of the consumer group `group`, whose members share the partitions of `topic`; `listener` learns which are this one's.

    The caller pauses them and reads with a consumer of its own: a member's own reading stops while its listener is called. Ends of topics
    that it is asked for are those of a reader of all messages, open transactions included.
    """
    with explain_errors(settings):
        member = AIOKafkaConsumer(
            **settings.client(),
            group_id=settings.topic(group),
            enable_auto_commit=False,
            auto_offset_reset="latest",
            session_timeout_ms=int(session_s * 1000),
            heartbeat_interval_ms=int(session_s * 250),
            rebalance_timeout_ms=int(rebalance_s * 1000),
        )
        member.subscribe([settings.topic(topic)], listener=listener)
        try:
            await _start(member, settings)
            yield member
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await member.stop()


@asynccontextmanager
async def administering(settings: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client for topics and their settings."""
    with explain_errors(settings):
        admin = AIOKafkaAdminClient(**settings.client())
        try:
            await _start(admin, settings)
            yield admin
        finally:
            await admin.close()


class Outgoing(NamedTuple):
    """A message for a topic of the cluster, by its whole name. Without a partition its key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    partition: int | None = None


def outgoing(settings: KafkaSettings, record: Record, partition: int | None = None, row: int | None = None) -> Outgoing:
    """The message of `record`, which is number `row` of its run's log."""
    numbered = [] if row is None else [(ROW_HEADER, str(row).encode())]
    return Outgoing(settings.topic(record.topic), record.run.encode(), record.data, [*headers(record), *numbered], partition)


def row_number_of(message: Message) -> int | None:
    """The number of `message`'s record in its run's log: 1, 2, 3 ... over all topics. None for what no run wrote, such as a derived record.

    Raises DataError for a header that is no such number, or stands there twice.
    """
    found = [value or b"" for name, value in message.headers if name == ROW_HEADER]
    if not found:
        return None
    if len(found) > 1 or _ROW.fullmatch(found[0]) is None:
        place = f"topic {message.topic}, partition {message.partition}, offset {message.offset}"
        raise DataError(f"{place}: expected header {ROW_HEADER} to be one number from 1 on, got {found!r:.80}")
    return int(found[0])


async def messages_between(
    consumer: AIOKafkaConsumer, place: TopicPartition, begin: int, end: int, progress: Callable[[], None] = lambda: None
) -> AsyncIterator[Message]:
    """The committed messages of [begin, end); `progress` is called whenever some came.

    The position counts, not the messages: markers and aborted records have offsets, too.
    """
    if begin >= end:
        return
    consumer.assign([place])
    consumer.seek(place, begin)
    while await consumer.position(place) < end:
        for messages in (await consumer.getmany(timeout_ms=20)).values():
            progress()
            for message in messages:
                if message.offset < end:
                    yield message
        await asyncio.sleep(0)  # getmany does not suspend while messages are buffered.


@contextmanager
def explain_errors(settings: KafkaSettings) -> Iterator[None]:
    """Turns aiokafka's errors into LogError with the cluster, what was expected, and what came."""
    where = f"Kafka at {settings.bootstrap}"
    try:
        yield
    except ProducerFenced as error:
        raise FencedError(f"{where}: a newer process writes under the same transactional id; this one may not go on") from error
    except TopicAuthorizationFailedError as error:
        raise LogError(f"{where}: expected rights on its topics, got a refusal: {error}") from error
    except GroupAuthorizationFailedError as error:
        raise LogError(f"{where}: expected rights on the group, got a refusal: {error}") from error
    except TransactionalIdAuthorizationFailed as error:
        raise LogError(f"{where}: expected the right to write under the transactional id, got a refusal: {error}") from error
    except UnknownTopicOrPartitionError as error:
        raise LogError(f"{where}: expected its topics, got none ({error}); make them: esper topics create") from error
    except UnsupportedVersionError as error:
        raise LogError(f"{where}: expected a broker of version 2.8 or newer: {error}") from error
    except KafkaConnectionError as error:
        raise LogError(f"{where}: expected a broker that answers, got none: {error}") from error
    except KafkaTimeoutError as error:
        raise LogError(f"{where}: expected an answer within {settings.request_timeout_s:g} s, got none: {error}") from error
    except KafkaError as error:
        raise LogError(f"{where}: {type(error).__name__}: {error}") from error


async def _start(client: Any, settings: KafkaSettings) -> None:  # Any: one of aiokafka's.
    """Starts a client. Where it cannot connect, raises LogError with the reason, which aiokafka only logs."""
    try:
        await client.start()
    except KafkaConnectionError:
        async with probing(settings):
            raise  # A connection succeeds now.
