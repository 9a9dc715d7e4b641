"""Topics on a broker, each with a name that no other test has."""

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from local_kafka import BrokerError

_TOPIC_S, _POLL_S = 10, 0.02


@dataclass(frozen=True)
class TopicFactory:
    """Makes topics on one broker, each with a name that no other test has; none is deleted, the broker's folder goes."""

    bootstrap: str
    defaults: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        """The name of a new topic, whose partitions have leaders when this returns. `config` is Kafka's, over the defaults.

        Raises BrokerError when the broker refuses it, TimeoutError when it is not there within 10 s.
        """
        name = f"t-{uuid.uuid4()}"
        async with asyncio.timeout(_TOPIC_S):
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=_TOPIC_S * 1000)
            try:
                await admin.start()
                topic = NewTopic(name, partitions, replication_factor=1, topic_configs={**self.defaults, **(config or {})})
                for _, code, message in (await admin.create_topics([topic])).topic_errors:
                    if code:
                        raise BrokerError(f"{self.bootstrap} did not make topic {name}: error {code}, {message}")
                await _wait_for_leaders(admin, name, partitions)
            finally:
                await admin.close()
        return name


async def _wait_for_leaders(admin: AIOKafkaAdminClient, topic: str, partitions: int) -> None:
    """Waits until the topic can be written: creating is answered before every reader of the metadata sees it."""
    while True:
        (described,) = await admin.describe_topics([topic])
        if sum(partition["leader"] >= 0 for partition in described["partitions"]) == partitions:
            return
        await asyncio.sleep(_POLL_S)
