"""The collectors that Esper brings, the handlers that feed them, and the path of each as settings name it."""

from itertools import product

from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.telemetry import CustomMetricRecorded
from esper.nissa.collectors import adaptations, kernels, pipeline, resources, seeds, training
from esper.nissa.metrics.model import Handler, Model, Watched

_PARTS = (seeds, kernels, adaptations, training, resources, pipeline)
PATHS = tuple(f"{part.__name__}:COLLECTOR" for part in _PARTS)


def _custom(model: Model, watched: Watched, _record: Record, event: CustomMetricRecorded) -> Watched:
    model.record_custom(event)
    return watched


def built_in_model(alert_handlers: tuple[str, ...] = ()) -> Model:
    """A model that counts what the built-in collectors show; `alert_handlers` are those that settings name."""
    handlers: dict[type[Event], tuple[Handler, ...]] = {CustomMetricRecorded: (_custom,)}
    for part in _PARTS:
        for kind, handler in part.HANDLERS.items():
            handlers[kind] = (*handlers.get(kind, ()), handler)
    model = Model((family for part in _PARTS for family in part.FAMILIES), handlers)
    for handler, outcome in product(alert_handlers, pipeline.OUTCOMES):
        model.tally.add(pipeline.NOTIFICATIONS, handler, outcome, by=0)
    return model
