"""One record in one line, for `esper log`."""

from collections.abc import Callable
from typing import Any

from rich.filesize import decimal
from rich.text import Text

from esper.cli.drawing.decisions import evidence, sureness, wanted
from esper.cli.drawing.text import clipped, count, lasting, many, metric, number
from esper.errors import DataError
from esper.events import codec
from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds import control, epoch, kernels, lifecycle, run, telemetry
from esper.events.topics import is_telemetry
from esper.folds.timeline import note_of
from esper.history.view import mean

_WIDE = 100


def headings(width: int | None) -> Text:
    """The line above a table of records."""
    return Text(_head("moment", "epoch", "step", "time (UTC)", width) + f"{'event':<22} what", style="bold")


def _head(moment: object, epoch: object, step: object, time: str, width: int | None) -> str:
    """The coordinates; on a narrow terminal step and time give way to what was said."""
    more = f" {step:>7}  {time:<12}" if width is None or width >= _WIDE else ""
    return f"{moment:>7} {epoch:>5}{more}  "


def line(record: Record, width: int | None) -> Text:
    """`record` in one line, cut to `width` characters (None: not cut); one that does not decode is shown as such."""
    name = record.type.removeprefix("esper.").rpartition(".v")[0]
    time = f"{record.time:%H:%M:%S}.{record.time.microsecond // 1000:03}"
    text = Text(_head(record.moment, record.epoch, record.step, time, width), style="dim").append(
        clipped(name, 22).ljust(22) + " ", style="dim" if is_telemetry(record.topic) else "cyan"
    )
    try:
        words = words_of(codec.decode(record))
    except DataError as error:
        return text.append(f"not understood: {error}", style="red")
    return text.append(words if width is None else clipped(words, max(20, width - text.cell_len)))


def words_of(event: Event) -> str:
    """What `event` says, in words."""
    tell = _WORDS.get(type(event))
    return tell(event) if tell is not None else note_of(event) or codec.encode(event).decode()


def _seed(event: Any) -> str:  # Any: every caller's kind has a site and a seed; the table below says which they are.
    return f"{event.site} s{event.seed}"


def _epoch(event: epoch.EpochCompleted) -> str:
    validation = "not validated" if event.validation is None else f"valid {number(event.validation.loss)}"
    metrics = {} if event.validation is None else event.validation.metrics
    more = "".join(f"  {metric(name, value)}" for name, value in metrics.items())
    return f"train {number(event.train.loss)}  {validation}{more}  {count(event.system.parameters)} parameters"


def _steps(event: telemetry.StepsMeasured) -> str:
    steps = event.steps
    if not steps.step:
        return "no steps"
    last = next((loss for loss in reversed(steps.loss) if loss is not None), None)
    return f"steps {steps.step[0]}..{steps.step[-1]}  loss {number(last)}  {number(mean(steps.step_latency_ms), 1)} ms/step"


def _evaluated(event: lifecycle.SeedEvaluated) -> str:
    found = event.evaluation
    compared = f"{number(found.loss_with, 4)} with, {number(found.loss_without, 4)} without"
    return f"{_seed(event)} @{event.life} {event.purpose} at alpha {number(found.alpha, 2)}: {compared}, n {found.n}, best of {found.k}"


# Any: the key is the kind that the function takes, and `words_of` looks it up by the event's own type.
_WORDS: dict[type[Event], Callable[[Any], str]] = {
    run.RunStarted: lambda event: (
        f"{event.task}, rng {event.rng_seed}, {count(event.parameters)} parameters, {many(len(event.sites), 'site')}"
    ),
    run.CheckpointSaved: lambda event: f"{event.checkpoint} ({event.reason}) {event.digest[:12]} {decimal(event.size_bytes)}",
    run.CheckpointPruned: lambda event: f"{event.checkpoint}: {event.reason}",
    run.StreamEnded: lambda event: f"last step {event.last_step}",
    epoch.EpochCompleted: _epoch,
    lifecycle.SeedTransitioned: lambda event: f"{_seed(event)} {event.from_stage.value} → {event.to_stage.value}: {event.reason}",
    lifecycle.SeedEvaluated: _evaluated,
    control.DecisionMade: lambda event: f"{wanted(event)}, {sureness(event)}: {event.reason} [{evidence(event)}]",
    control.DecisionRefused: lambda event: f"{event.rule}: {event.reason}",
    control.CommandIssued: lambda event: f"{event.command.value} {_seed(event)} {event.blueprint or ''}",
    control.CommandApplied: lambda event: f"{event.command.value} {_seed(event)}",
    control.CommandRefused: lambda event: f"{event.command.value} {_seed(event)}: {event.reason}",
    control.CommandFailed: lambda event: f"{event.command.value} {_seed(event)}: {event.error}",
    control.FieldReported: lambda event: (
        f"{_seed(event)} {event.blueprint} {event.outcome.lower()}: {number(event.metric_before)} → {number(event.metric_after)}"
    ),
    kernels.BlueprintSubmitted: lambda event: f"{_seed(event)} {event.blueprint} as {event.key[:12]}",
    kernels.KernelCompiled: lambda event: (
        f"{_seed(event)} {event.kernel[:12]} {'from the cache' if event.from_cache else f'in {number(event.duration_ms, 1)} ms'}"
    ),
    kernels.KernelCompileFailed: lambda event: f"{_seed(event)}: {event.error}",
    kernels.KernelCharacterized: lambda event: f"{event.kernel[:12]} {count(event.parameters)} parameters, {count(event.flops)} FLOPs",
    telemetry.StepsMeasured: _steps,
    telemetry.SeedHealthMeasured: lambda event: f"{many(sum(seed is not None for seed in event.health.seed), 'seed')} measured",
    telemetry.Heartbeat: lambda event: f"{event.doing}, {lasting(event.idle_s)} since the last emit",
}
