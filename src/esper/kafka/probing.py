"""A connection to a broker, made before a process starts its clients: why the cluster cannot be used, in words, within seconds.

aiokafka's clients try again for as long as a request may take, and their errors leave out what a broker answered. Here every host of the
address is tried once, and one request asks for topics, their ids and partitions, and this user's rights on them. Nothing is changed.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from aiokafka.conn import AIOKafkaConnection, CloseReason, collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from esper.errors import LogError
from esper.kafka.cluster import KafkaSettings

WITHIN_S = 10.0
"""The longest that a probe takes, however long a request may take afterwards."""

UNKNOWN_TOPIC, DENIED_TOPIC, DENIED_GROUP, DENIED_TRANSACTIONAL_ID = 3, 29, 30, 53
"""Error codes of Kafka's protocol."""

logging.getLogger("aiokafka.conn").setLevel(logging.INFO)  # At DEBUG it logs every request, and one of them is a password.


class RefusedError(LogError):
    """A broker answers and does not serve this client: waiting does not help, settings or rights must change."""


class Right(IntEnum):
    """A right of a user on a topic, by the number of Kafka's AclOperation."""

    READ = 3
    WRITE = 4


class FoundTopic(NamedTuple):
    """A topic as the cluster describes it. `error`: 0, UNKNOWN_TOPIC, DENIED_TOPIC. `led`: the number of partitions with a leader.

    `copies`: of the partition that has the fewest.
    """

    error: int
    id: str
    partitions: int
    led: int
    copies: int
    rights: int

    def may(self, right: Right) -> bool:
        """True where this user has `right`."""
        return bool(self.rights >> right & 1)


@asynccontextmanager
async def probing(settings: KafkaSettings) -> AsyncIterator["Probe"]:
    """A connection to the first broker that lets this client in, for a few questions.

    Raises RefusedError where a broker answers and refuses, LogError where none answers; each names the host and the reason.
    """
    problems: list[LogError] = []
    hosts = collect_hosts(settings.bootstrap, randomize=False)
    for host, port, _ in hosts:
        try:
            connection = await _connect(settings, host, port, WITHIN_S / len(hosts))
        except LogError as error:
            problems.append(error)
            continue
        try:
            yield Probe(settings, connection)
        finally:
            await connection.close(reason=CloseReason.SHUTDOWN)
        return
    kind = RefusedError if any(isinstance(problem, RefusedError) for problem in problems) else LogError
    raise kind("; ".join(map(str, problems))) from problems[-1].__cause__


class Probe:
    """A connection that asks."""

    def __init__(self, settings: KafkaSettings, connection: AIOKafkaConnection) -> None:
        self._settings, self._connection = settings, connection

    async def topics(self, names: Collection[str]) -> dict[str, FoundTopic]:
        """The topics with these whole names, whether or not they are there, in this order.

        Raises RefusedError where the addresses that the brokers give out cannot be reached.
        """
        answer = await self._ask(_DescribeRequest(names))
        await self._reach([(host, port) for _, host, port, *_ in answer.brokers])
        found: dict[str, FoundTopic] = {}
        for error, name, high, low, _, partitions, rights, _ in answer.topics:
            topic_id = str(UUID(int=(high % 2**64 << 64) + low % 2**64))
            led, copies = sum(one[2] >= 0 for one in partitions), min((len(one[4]) for one in partitions), default=0)
            found[name] = FoundTopic(error, topic_id, len(partitions), led, copies, rights)
        return {name: found[name] for name in names}

    async def is_denied(self, *, group: str | None = None, transactional_id: str | None = None) -> bool:
        """True where this user may not use the group, or the transactional id."""
        asked = FindCoordinatorRequest(transactional_id, 1) if group is None else FindCoordinatorRequest(group, 0)
        return (await self._ask(asked)).error_code in (DENIED_GROUP, DENIED_TRANSACTIONAL_ID)

    async def _ask(self, request: Request[Any]) -> Any:  # Any: aiokafka's responses have the attributes of their schema.
        with _explained(self._settings, self._connection.host, self._connection.port):
            return await self._connection.send(request)

    async def _reach(self, brokers: list[tuple[str, int]]) -> None:
        """Connects to one broker as clients will: by the address that the brokers give out."""
        if (self._connection.host, self._connection.port) in brokers:
            return
        problems: list[str] = []
        for host, port in brokers:
            try:
                async with asyncio.timeout(WITHIN_S / len(brokers)):
                    _, writer = await asyncio.open_connection(host, port)
            except OSError as error:  # TimeoutError, too.
                problems.append(f"{host}:{port}: {_words(error)}")
            else:
                writer.close()
                return
        told = f"the brokers give out addresses that cannot be reached from here ({'; '.join(problems)}): see their advertised.listeners"
        raise RefusedError(f"Kafka at {self._settings.bootstrap}: {told}")


async def _connect(settings: KafkaSettings, host: str, port: int, within_s: float) -> AIOKafkaConnection:
    arguments = settings.client() | {"request_timeout_ms": int(within_s * 1000)}
    del arguments["bootstrap_servers"]
    with _explained(settings, host, port):
        async with asyncio.timeout(within_s):
            return await create_conn(host, port, **arguments)


@contextmanager
def _explained(settings: KafkaSettings, host: str, port: int) -> Iterator[None]:
    """Turns what a connection raises into LogError, and into RefusedError where waiting does not help."""
    try:
        yield
    except (OSError, KafkaError, NotImplementedError) as error:  # TimeoutError is an OSError.
        if refusal := _refusal(settings, error):
            raise RefusedError(f"Kafka at {host}:{port}: {refusal}") from error
        raise LogError(f"Kafka at {host}:{port}: expected a broker that answers, got none: {_words(error)}") from error


def _refusal(settings: KafkaSettings, error: Exception) -> str | None:
    """The reason why a broker that answers does not serve this client; None where it is `error` of the network."""
    security, told = f"security is {settings.security!r} in kafka.toml", None
    match error:
        case SaslAuthenticationFailed():
            told = f"expected user {settings.username!r} to be let in, got a refusal: {error.args[0] if error.args else error}"
        case UnsupportedSaslMechanismError():
            told = f"expected a broker that takes {settings.mechanism}, got one that does not; name another mechanism in kafka.toml"
        case IllegalSaslStateError():
            told = f"expected a listener that asks for a password, got one that does not; {security}"
        case ssl.SSLCertVerificationError():
            told = f"expected a certificate that ca_file vouches for, got another: {error.verify_message}"
        case NotImplementedError() | IncompatibleBrokerVersion():
            told = f"expected Kafka 2.8 or newer, got an older broker: {error}"
        case ssl.SSLError() | ConnectionError() if settings.security.endswith("ssl") and not isinstance(error, ConnectionRefusedError):
            told = f"expected a listener with TLS, got one without, or one that does not take this client's certificate; {security}"
        case KafkaConnectionError() | ConnectionResetError():
            told = f"expected an answer, got a closed connection: the listener may ask for TLS or a password; {security}"
        case KafkaError():
            told = f"{type(error).__name__}: {error}"
    return told


def _words(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case socket.gaierror():
            return f"no machine has that name ({error.strerror})"
        case _:
            return str(error) or type(error).__name__


# Kafka's Metadata request of version 10 (2.8 and newer): the first with the ids of topics; aiokafka's own ends at 5.

_Parts: TypeAlias = list[tuple[Any, ...]]


class _Described(Response):  # type: ignore[misc]
    API_KEY, API_VERSION = 3, 10
    brokers: _Parts
    topics: _Parts
    _PARTITION = (
        ("error_code", Int16),
        ("partition", Int32),
        ("leader", Int32),
        ("leader_epoch", Int32),
        ("replicas", CompactArray(Int32)),
        ("in_sync", CompactArray(Int32)),
        ("offline", CompactArray(Int32)),
        ("tags", TaggedFields),
    )
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("id_high", Int64),
                ("id_low", Int64),
                ("is_internal", Boolean),
                ("partitions", CompactArray(*_PARTITION)),
                ("rights", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_rights", Int32),
        ("tags", TaggedFields),
    )


class _Describe(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY, API_VERSION, RESPONSE_TYPE = 3, 10, _Described
    SCHEMA = Schema(
        ("topics", CompactArray(("id_high", Int64), ("id_low", Int64), ("topic", CompactString("utf-8")), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_rights", Boolean),
        ("include_topic_rights", Boolean),
        ("tags", TaggedFields),
    )


class _DescribeRequest(Request[_Describe]):  # type: ignore[misc]
    API_KEY = 3
    _CLASSES = (_Describe,)

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)

    def build(self, request_struct_class: type[_Describe]) -> _Describe:
        return request_struct_class([(0, 0, name, {}) for name in self._names], False, False, True, {})
