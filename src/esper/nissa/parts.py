"""What the routes work with, made once for an application and found through the request."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from esper.nissa.collectors import Collectors
from esper.nissa.metrics import LogMetrics
from esper.nissa.settings import NissaSettings
from esper.nissa.source import Source
from esper.nissa.wake import Wake


@dataclass(frozen=True, slots=True)
class Parts:
    """One application's parts."""

    source: Source
    metrics: LogMetrics
    collectors: Collectors
    wake: Wake
    settings: NissaSettings


async def _parts_of(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)
    return parts


Served = Annotated[Parts, Depends(_parts_of)]
