"""`esper.measure`: metrics of the user's own, from code that a training calls: an objective, a loader, a schedule, a policy.

The run follows from the thread: one run trains on a thread at a time. Samples keep the rules of those sent over HTTP; a name that ends with
`_total` is a counter's, any other a gauge's.
"""

import math
from collections.abc import Mapping
from typing import SupportsFloat

from pydantic import ValidationError

from esper.errors import DataError, RuleError
from esper.events.envelope import RunId
from esper.nissa.custom_metrics import MOST_LABELS, CounterSample, CustomSample, GaugeSample, RefusedSamplesError
from esper.processes.bound_run import bound_run

_EXPECTED = {
    "name": "a name of small letters, digits and _, a letter first, at most 100 of them; a counter's ends with _total, none with "
    "_bucket, _count, _sum, _created or _info",
    "labels": f"at most {MOST_LABELS} labels with names like queue (not le or quantile) and texts of at most 128 characters on one line",
    "value": "a finite number, and none below 0 of a counter",
}


def measure(name: str, value: SupportsFloat, *, labels: Mapping[str, str] | None = None) -> None:
    """Records the value of the metric `esper_custom_<name>` in the log of the run that trains on this thread, at its epoch and step.

    A name that ends with `_total` is a counter's: `value` is its increase, at least 0. Any other is a gauge's. At most 4 labels, 100 series
    a metric, 500 metrics. Waits for a tensor on a device. Takes about 15 microseconds and waits for no disk; a sample that finds the log's
    buffer full is counted as dropped. Samples are telemetry: a resumed run records only those again that its log does not have.

    Raises RuleError where no run trains on this thread, as in a loader's workers; DataError, and records nothing, for a name, label or
    value that cannot be and for a metric that had another set of labels before; LogError once the log has failed.
    """
    training = bound_run.get()
    if training is None:
        raise RuleError(f"metric {name!s:.100}: expected a call from what a training calls, on its thread; no run trains on this one")
    run, metrics = training
    try:
        metrics.accept((_sample(name, value, labels or {}, run),))
    except RefusedSamplesError as error:
        raise DataError(f"metric {name!s:.100}: {'; '.join(part.detail for part in error.parts)}") from error


def _sample(name: str, value: SupportsFloat, labels: Mapping[str, str], run: RunId | None) -> CustomSample:
    kind, sample = ("counter", CounterSample) if str(name).endswith("_total") else ("gauge", GaugeSample)
    try:
        return sample.model_validate({"name": name, "type": kind, "labels": dict(labels), "value": _number(value), "about": run})
    except ValidationError as error:
        field = str(error.errors(include_url=False)[0]["loc"][0])
        got = {"name": name, "labels": dict(labels), "value": value}[field]
        raise DataError(f"metric {name!s:.100}: expected {_EXPECTED[field]}; got {got!r:.100}") from error


def _number(value: SupportsFloat) -> object:
    """`value` of numpy or torch as a number; any other value is returned as it is, to be refused by name."""
    detach = getattr(value, "detach", None)
    number = value if detach is None else detach()  # A loss has a gradient, and torch warns of one that is read.
    try:
        return number if isinstance(number, bool) or not isinstance(number, SupportsFloat) else float(number)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError, RuntimeError):  # More than one element, as numpy and torch say it.
        return value
