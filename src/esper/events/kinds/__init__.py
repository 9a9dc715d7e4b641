"""Every kind of event, in one table. A kind that is not here does not exist: its bytes do not decode. Holds declarations, no behaviour."""

from esper.events import topics
from esper.events.fields import Event
from esper.events.kinds import (
    accountability,
    control,
    epoch,
    kernels,
    lifecycle,
    observability,
    run,
    telemetry,
    training_description,
    wiring_findings,
)

KINDS: tuple[type[Event], ...] = tuple(
    kind
    for module in (run, training_description, wiring_findings, epoch, lifecycle, control, kernels, telemetry, observability, accountability)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind.__module__ == module.__name__ and "KIND" in vars(kind)
)
KINDS_BY_NAME: dict[str, type[Event]] = {kind.KIND: kind for kind in KINDS}


def kinds_of(topic: str) -> tuple[type[Event], ...]:
    """The kinds that may stand in `topic`; every topic of facts or telemetry also takes StreamEnded, its last record."""
    return tuple(kind for kind in KINDS if topic == kind.TOPIC or (kind is run.StreamEnded and topic not in topics.DERIVED))
