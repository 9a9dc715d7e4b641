"""Every table of the projection, described once: which kinds of event stand in it, and which part of a payload gives its rows.

The DDL, the SELECT that fills a table, the page of documentation and the test that no field is forgotten follow from it (`table_sql`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from esper.events.fields import Event
from esper.events.kinds import (
    KINDS,
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


class Column(NamedTuple):
    """A column: its name, DuckDB's type, and its meaning. `expression` gives it from a row of events whose payload is `j`."""

    name: str
    type: str
    meaning: str
    expression: str = ""


PLACE = (
    Column("run", "VARCHAR", "The run's id.", "run"),
    Column("moment", "BIGINT", "The number of the record within its run; of a derived record that of its cause.", "moment"),
    Column("time", "TIMESTAMP", "When the record was written, in UTC; of a derived record that of its cause.", "time"),
    Column("epoch", "BIGINT", "The epoch under way or just completed.", "epoch"),
    Column("step", "BIGINT", "Optimizer steps so far.", "step"),
)
IDENTITY = (
    Column("id", "VARCHAR", "The record's id: `run/moment`, or a digest for a derived record.", "id"),
    Column("cause", "VARCHAR", "The id of the record that this one follows from.", "cause"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table of one or more kinds of event.

    `rows` is the path of a part of columns in each kind's payload: the table has a row per entry of them, and no other field but those of
    `also`. `without` are paths that stand in another table, or repeat what the record says elsewhere. `status` gives each kind its word in
    the column of that name.
    """

    name: str
    meaning: str
    kinds: tuple[type[Event], ...]
    rows: Mapping[type[Event], str] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    status: Mapping[type[Event], str] = field(default_factory=dict)


TABLES = (
    Table("runs", "Runs as they started: settings, code, data, machine; one row a run.", (run.RunStarted,)),
    Table(
        "descriptions",
        "How runs are trained: a row at a run's start, and one after a resume where the code gave something else; modules has the model.",
        (training_description.TrainingDescribed,),
        without=("model.modules",),
    ),
    Table(
        "modules",
        "Modules of the models of descriptions, before anything grew: a row each.",
        (training_description.TrainingDescribed,),
        rows={training_description.TrainingDescribed: "model.modules"},
    ),
    Table("resumes", "Runs that went on after an interruption.", (run.RunResumed,)),
    Table(
        "run_ends",
        "Ends of runs. One that failed may have been resumed.",
        (run.RunFinished, run.RunFailed),
        status={run.RunFinished: "finished", run.RunFailed: "failed"},
    ),
    Table(
        "checkpoints",
        "Checkpoints, saved and pruned.",
        (run.CheckpointSaved, run.CheckpointPruned),
        status={run.CheckpointSaved: "saved", run.CheckpointPruned: "pruned"},
    ),
    Table(
        "rollbacks",
        "Returns to a checkpoint; the seed tables that they put in force stand in seed_states.",
        (run.RunRolledBack,),
        without=("seeds",),
    ),
    Table(
        "wiring_findings",
        "What was found in the wiring of trainings, in their first epoch for the most part.",
        (wiring_findings.WiringFound,),
    ),
    Table(
        "outcomes_judged",
        "What trainings that came to their end have learned, against the best constant output.",
        (wiring_findings.OutcomeJudged,),
    ),
    Table("frozen_sites", "Sites where nothing can grow any more, with the reason.", (run.SiteFrozen,)),
    Table("clock_jumps", "Where the machine's clock and the time that passed went apart or came together.", (run.ClockJumped,)),
    Table("dropped_samples", "Telemetry that found no room before it was taken.", (run.SamplesDropped,)),
    Table(
        "epochs",
        "Completed epochs: losses, metrics, digests, and the limits in force; `system_...` is what the policy knew.",
        (epoch.EpochCompleted,),
        without=(
            "system.epoch",
            "system.train_loss",
            "system.train_metrics",
            "system.validation_loss",
            "system.validation_metrics",
            "system.sites",
            "system.seeds",
            "system.field_reports",
        ),
    ),
    Table(
        "seed_states",
        "The seed table at each epoch's end, before its decisions, and after each rollback: a row a slot.",
        (epoch.EpochCompleted, run.RunRolledBack),
        rows={epoch.EpochCompleted: "system.seeds", run.RunRolledBack: "seeds"},
    ),
    Table("site_health", "Sites at each epoch's end.", (epoch.EpochCompleted,), rows={epoch.EpochCompleted: "system.sites"}),
    Table("transitions", "Seeds from stage to stage.", (lifecycle.SeedTransitioned,)),
    Table("evaluations", "Effects of seeds on the validation loss, in pairs.", (lifecycle.SeedEvaluated,)),
    Table("decisions", "Decisions of the controller, those that the gate refused and `none` included.", (control.DecisionMade,)),
    Table("commands", "Decisions that passed the gate.", (control.CommandIssued,)),
    Table(
        "outcomes",
        "Outcomes of commands, and decisions that the gate refused; `cause` is the command or the decision.",
        (control.CommandApplied, control.CommandRefused, control.CommandFailed, control.DecisionRefused),
        status={
            control.CommandApplied: "applied",
            control.CommandRefused: "refused",
            control.CommandFailed: "failed",
            control.DecisionRefused: "decision refused",
        },
    ),
    Table("field_reports", "Results of blueprints.", (control.FieldReported,)),
    Table(
        "kernels",
        "Blueprints on their way to kernels.",
        (kernels.BlueprintSubmitted, kernels.KernelCompiled, kernels.KernelCompileFailed, kernels.KernelCharacterized),
        status={
            kernels.BlueprintSubmitted: "submitted",
            kernels.KernelCompiled: "compiled",
            kernels.KernelCompileFailed: "failed",
            kernels.KernelCharacterized: "characterized",
        },
    ),
    Table(
        "health_signals",
        "Health while training runs: a row a site (seed NULL) and a live seed, per measurement.",
        (telemetry.SeedHealthMeasured,),
        rows={telemetry.SeedHealthMeasured: "health"},
        also=("last_adaptation_step", "last_adaptation", "groups"),
    ),
    Table(
        "steps",
        "Optimizer steps: a row each.",
        (telemetry.StepsMeasured,),
        rows={telemetry.StepsMeasured: "steps"},
        also=("metrics", "learning_rates", "live_seeds", "last_adaptation_step", "last_adaptation", "samples_per_s", "memory_bytes"),
    ),
    Table(
        "batches",
        "The first batch of each optimizer step: a row each.",
        (telemetry.StepsMeasured,),
        rows={telemetry.StepsMeasured: "batches"},
    ),
    Table("heartbeats", "Signs of life of trainers.", (telemetry.Heartbeat,)),
    Table("resources", "Machines, and the logs on them; in runs named `machine:...`.", (telemetry.ResourcesMeasured,)),
    Table("custom_metrics", "Samples of the user's own metrics.", (telemetry.CustomMetricRecorded,)),
    Table("windows", "Statistics of metrics over windows of time.", (observability.WindowAggregated,)),
    Table("anomalies", "Values that a detector did not expect.", (observability.AnomalyDetected,)),
    Table("trends", "Trends of metrics over windows.", (observability.TrendDetected,)),
    Table(
        "alerts",
        "Changes of alerts; (fingerprint, since) names one alert from its beginning to its end.",
        (observability.AlertPending, observability.AlertFiring, observability.AlertResolved),
        status={observability.AlertPending: "pending", observability.AlertFiring: "firing", observability.AlertResolved: "resolved"},
    ),
    Table(
        "notifications",
        "Deliveries of alerts; `alert` is the id of the change that was delivered.",
        (observability.AlertNotified, observability.AlertSuppressed),
        status={observability.AlertNotified: "notified", observability.AlertSuppressed: "suppressed"},
    ),
    Table(
        "observers",
        "Observers that started, runs that went silent, topics that were blocked.",
        (
            observability.ObserverStarted,
            observability.RunWentSilent,
            observability.RunHeardAgain,
            observability.FoldBlocked,
            observability.FoldUnblocked,
        ),
        status={
            observability.ObserverStarted: "started",
            observability.RunWentSilent: "went silent",
            observability.RunHeardAgain: "heard again",
            observability.FoldBlocked: "blocked",
            observability.FoldUnblocked: "unblocked",
        },
    ),
    Table("checks", "Compliance checks that were made; `about` is the run that was checked.", (accountability.ComplianceChecked,)),
    Table("sign_offs", "Results of runs that people accepted; `about` is the run.", (accountability.RunSignedOff,)),
    Table(
        "holds",
        "Runs that must be kept, and releases of all holds of a run; `about` is the run.",
        (accountability.RunHeld, accountability.HoldReleased),
        status={accountability.RunHeld: "held", accountability.HoldReleased: "released"},
    ),
    Table("prunings", "Runs that were removed from the log; `about` is the run.", (accountability.RunPruned,)),
    Table(
        "acknowledgements",
        "Alerts that people took over, until when; `about` is the run whose alert it is.",
        (accountability.AlertAcknowledged,),
    ),
)
BY_NAME = {table.name: table for table in TABLES}
UNTABLED = (run.StreamEnded,)
"""Kinds that stand in `events` alone: they say no more than that a topic ended."""

DATA = Column("data", "VARCHAR", "The payload, JSON as it was written.")
EVENTS = (
    *IDENTITY[:1],
    PLACE[0],
    Column("topic", "VARCHAR", "The topic that the record stands in."),
    Column("file", "VARCHAR", "`run`: written by the run's writer; `observed`: derived from it."),
    Column("row", "BIGINT", "The record's place in that file."),
    Column("writer", "VARCHAR", "The process that wrote it."),
    Column("sequence", "BIGINT", "Its number within its run and topic; NULL for a derived record."),
    Column("fact", "BIGINT", "Its number among the run's facts; NULL for telemetry and derived records."),
    PLACE[1],
    Column("generation", "BIGINT", "0 for what the run's writer wrote; one more than its cause's for a derived record."),
    Column("incarnation", "BIGINT", "How many times the run had been started or resumed."),
    Column("type", "VARCHAR", "The kind of event, with its version."),
    *PLACE[2:],
    *IDENTITY[1:],
    Column("trace", "VARCHAR", "W3C trace context; NULL where there is none."),
    Column("chain", "BLOB", "The digest of the record over its content and its predecessor's chain; NULL for a derived record."),
    Column("follows", "BOOLEAN", "True: the chain is that of the record after its predecessor in its topic; NULL for a derived record."),
    DATA,
    Column("problem", "VARCHAR", "Why the record stands in no other table; NULL: it does."),
)
"""Columns of the table that holds every record."""

_RUN = PLACE[0]
_FILE = EVENTS[3]
POSITIONS = (
    _RUN,
    _FILE,
    Column("row", "BIGINT", "The last row that was read."),
    Column("records", "BIGINT", "Records of the file in `events`."),
    Column("problem", "VARCHAR", "Why the file could not be read to its end; NULL: it was."),
    Column("gone", "VARCHAR", "What this copy lacks because Kafka had deleted it, as JSON; NULL: nothing."),
    Column("mark", "VARCHAR", "What the seal of a finished run says, JSON as it was written; NULL: there is none."),
    Column("stamp", "VARCHAR", "Sizes and times of the file when it was read; empty: more is to be read."),
    Column("read_at", "TIMESTAMP", "When it was last read, in UTC, by this machine's clock."),
    Column("compared_at", "TIMESTAMP", "When all of it was last compared with what had been read before; NULL: never."),
)
CONFLICTS = (
    _RUN,
    _FILE,
    Column("row", "BIGINT", "The record's place in that file."),
    Column("topic", "VARCHAR", "The topic that the record stands in."),
    Column("moment", "BIGINT", "The number of the record within its run."),
    Column(
        "what", "VARCHAR", "`altered`: other bytes than were read before; `missing`: no longer there; `added`: where nothing was before."
    ),
    Column("found", "VARCHAR", "sha256 of the payload that is there now; NULL: none is."),
    Column("noticed_at", "TIMESTAMP", "When that was found, in UTC, by this machine's clock."),
)
CHECKPOINT_FILES = (
    _RUN,
    Column("checkpoint", "VARCHAR", "Its name under the run's `checkpoints/`."),
    Column("digest", "VARCHAR", "The digest of the files that are there now; NULL: there are none, or they cannot be read."),
    Column("problem", "VARCHAR", "Why there is no digest; NULL: there is."),
    Column("looked_at", "TIMESTAMP", "When, in UTC, by this machine's clock."),
)
OWN: Mapping[str, tuple[str, tuple[Column, ...]]] = {
    "events": ("Every record of every run, as it was read.", EVENTS),
    "positions": ("How far each file of the log was read.", POSITIONS),
    "conflicts": ("Records that were altered, removed or added after they had been read; kept when all else is made anew.", CONFLICTS),
    "checkpoint_files": ("Checkpoints as their files are, of runs that were compared.", CHECKPOINT_FILES),
}
"""Tables that are not made from one kind of event: what each holds, and its columns."""

assert set(KINDS) == {kind for table in TABLES for kind in table.kinds} | set(UNTABLED), "every kind has a table, or is said to have none"
