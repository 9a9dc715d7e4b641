"""What the routes work with, made once for an application and found through the request."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from esper.nissa.collectors.collector import Collectors
from esper.nissa.collectors.own import own_samples
from esper.nissa.custom import CustomMetrics
from esper.nissa.metrics.exposition import Exposition
from esper.nissa.metrics.model import Model
from esper.nissa.settings import NissaSettings
from esper.nissa.source import Source
from esper.nissa.wake import Wake


@dataclass(frozen=True, slots=True)
class Parts:
    """One application's parts."""

    source: Source
    collectors: Collectors
    wake: Wake
    exposition: Exposition
    custom: CustomMetrics
    settings: NissaSettings

    @classmethod
    def made(cls, source: Source, model: Model, collectors: Collectors, wake: Wake, settings: NissaSettings) -> "Parts":
        """The parts over a source and the model that is made of its records."""
        exposition = Exposition(lambda: ([*collectors.samples(), *own_samples(collectors)], model.custom()))
        return cls(source, collectors, wake, exposition, CustomMetrics(model.custom, source.record), settings)


async def _parts_of(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


Served = Annotated[Parts, Depends(_parts_of)]
