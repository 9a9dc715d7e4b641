"""Every event kind there is, in one table. A kind that is not here does not exist: its bytes do not decode."""

from esper.events import topics
from esper.events.fields import Event
from esper.events.kinds import control, epoch, kernels, lifecycle, observability, run, telemetry

KINDS: tuple[type[Event], ...] = (
    run.RunStarted,
    run.RunResumed,
    run.CheckpointSaved,
    run.CheckpointPruned,
    run.RunRolledBack,
    run.SamplesDropped,
    run.RunFinished,
    run.RunFailed,
    run.StreamEnded,
    epoch.EpochCompleted,
    lifecycle.SeedTransitioned,
    lifecycle.SeedEvaluated,
    control.DecisionMade,
    control.CommandIssued,
    control.CommandApplied,
    control.CommandRefused,
    control.CommandFailed,
    control.DecisionRefused,
    control.FieldReported,
    kernels.BlueprintSubmitted,
    kernels.KernelCompiled,
    kernels.KernelCompileFailed,
    kernels.KernelCharacterized,
    telemetry.SeedHealthMeasured,
    telemetry.StepsMeasured,
    telemetry.Heartbeat,
    telemetry.ResourcesMeasured,
    telemetry.CustomMetricRecorded,
    observability.WindowAggregated,
    observability.AnomalyDetected,
    observability.TrendDetected,
    observability.AlertPending,
    observability.AlertFiring,
    observability.AlertResolved,
    observability.AlertNotified,
    observability.AlertSuppressed,
    observability.ObserverStarted,
    observability.RunWentSilent,
    observability.RunHeardAgain,
    observability.FoldBlocked,
    observability.FoldUnblocked,
)

BY_NAME: dict[str, type[Event]] = {kind.KIND: kind for kind in KINDS}


def kinds_of(topic: str) -> tuple[type[Event], ...]:
    """The kinds that may stand in `topic`; every telemetry topic also takes StreamEnded, its last record."""
    ends = topics.TOPICS[topic].kind is topics.TopicClass.TELEMETRY
    return tuple(kind for kind in KINDS if topic == kind.TOPIC or (kind is run.StreamEnded and ends))
