"""The field types that event kinds are made of, and the base every kind is declared on.

Numbers: a value that is not finite is written as "NaN", "Infinity" or "-Infinity"; null means not measured and nothing else.
A range binds finite values only, so that a NaN loss can be recorded at all. Whoever compares against a limit must remember that
every comparison with NaN is false.
"""

import math
from collections.abc import Callable
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from esper.events.envelope import EventId

CONFIG = ConfigDict(frozen=True, strict=True, extra="forbid", ser_json_inf_nan="strings", allow_inf_nan=True)


class Part(BaseModel):
    """A frozen piece of an event's payload."""

    model_config = CONFIG


class Event(BaseModel):
    """A frozen fact in the past tense. Every kind states its written name and the topic it stands in."""

    model_config = CONFIG
    KIND: ClassVar[str]
    TOPIC: ClassVar[str]


def _within(low: float, high: float) -> Callable[[float], float]:
    def check(value: float) -> float:
        if math.isfinite(value) and not low <= value <= high:
            raise ValueError(f"expected a value in {low:g}..{high:g}, got {value!r}")
        return value

    return check


def _range(low: float, high: float) -> dict[str, object]:
    bounds: dict[str, object] = {"minimum": low} if math.isfinite(low) else {}
    return bounds | ({"maximum": high} if math.isfinite(high) else {})


VOLATILE = {"volatile": True}
REFERENCE = {"reference": True}

Float = Annotated[float, Field(strict=False)]
Fraction = Annotated[Float, AfterValidator(_within(0.0, 1.0)), Field(json_schema_extra=_range(0.0, 1.0))]
Signed = Annotated[Float, AfterValidator(_within(-1.0, 1.0)), Field(json_schema_extra=_range(-1.0, 1.0))]
NonNegative = Annotated[Float, AfterValidator(_within(0.0, math.inf)), Field(json_schema_extra=_range(0.0, math.inf))]
Count = Annotated[int, Field(ge=0)]
Reference = Annotated[EventId, Field(json_schema_extra=REFERENCE)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
Metrics = dict[str, Float]


def float32_column(values: npt.ArrayLike, measured: npt.ArrayLike | None = None) -> tuple[float | None, ...]:
    """`values` rounded to float32 and written shortest; None where `measured` is false.

    Shapes: both 1-D, equal length. The shortest decimal that gives the same float32 is about half the bytes of its float64 form.
    """
    rounded = np.asarray(values, dtype=np.float32)
    kept = np.ones(rounded.shape, dtype=bool) if measured is None else np.asarray(measured, dtype=bool)
    return tuple(float(str(value)) if known else None for value, known in zip(rounded, kept, strict=True))
