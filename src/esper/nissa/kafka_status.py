"""State of the processes that join a log with Kafka: mirror, deliverer and bridge, as they write it beside the log. None is not known."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.state_files import BRIDGE_STATE, DELIVERY_STATE, MIRROR_STATE, read_state

_FRESH_S = 10.0  # They write every second.


@dataclass(frozen=True, slots=True)
class KafkaStatus:
    """`mirrored`: the log is a copy from Kafka. Times are seconds since 1970.

    Of the mirror: `caught_up_at`, when everything that was on Kafka had been copied; `behind`, messages that are not; `problem`, why not;
    `refused`, runs that are not copied any more. Of the deliverer: its process, partitions, and alerts without an outcome. Of a bridge:
    records that wait, and since when Kafka is away.
    """

    mirrored: bool = False
    caught_up_at: float | None = None
    behind: int | None = None
    problem: str | None = None
    refused: int | None = None
    delivered_by: int | None = None
    partitions: int | None = None
    outstanding: int | None = None
    waiting: int | None = None
    away_since: float | None = None


def read_kafka_status(log: Path, *, mirrored: bool) -> KafkaStatus:
    """The state as it stands beside the log. Of a process that does not write its state any more, only what it did is known."""
    mirror, delivery, bridge = (read_state(log / name) for name in (MIRROR_STATE, DELIVERY_STATE, BRIDGE_STATE))
    delivery, bridge = (state if _is_fresh(state) else {} for state in (delivery, bridge))
    refused = mirror.get("refused")
    problem = (mirror.get("error") or mirror.get("stuck")) if _is_fresh(mirror) else "no process copies it now"
    return KafkaStatus(
        mirrored=mirrored,
        caught_up_at=mirror.get("caught_up_at"),
        behind=mirror.get("behind"),
        problem=problem if mirrored else None,
        refused=None if refused is None else len(refused),
        delivered_by=delivery.get("pid"),
        partitions=len(delivery["partitions"]) if delivery else None,
        outstanding=delivery.get("outstanding"),
        waiting=sum(bridge["waiting"].values()) if bridge else None,
        away_since=bridge.get("away_since"),
    )


def _is_fresh(state: Mapping[str, Any]) -> bool:
    return bool(0.0 <= time.time() - state.get("time", 0.0) <= _FRESH_S)
