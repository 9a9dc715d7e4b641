"""Every table that is made from events, described once: which kinds of event stand in it, and which part of a payload gives its rows.

Columns, their types and their meanings follow from the models of the kinds. The DDL, the SELECT that fills a table, the page of
documentation and the test that no field is forgotten follow from the same description. Holds no connection and runs no query.

A column's name is its path in the payload, joined by `_`; a map is a MAP, a list a LIST, a part inside a list or a row a STRUCT. Numbers
that are not finite are NaN and infinity in a DOUBLE; NULL is not measured. A payload is read by `from_json_strict`: where `from_json`
would give NULL for a value of another type, it raises.
"""

import json
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from esper.events.fields import ByColumn, Columns, Event
from esper.events.kinds import KINDS, accountability, control, epoch, kernels, lifecycle, observability, run, telemetry, training
from esper.events.meanings import field_meanings

# Words of SQL that are names of fields.
_RENAMED = {"where": "place", "limit": "limit_value", "check": "check_name"}
_SCALARS: tuple[tuple[type, str], ...] = ((bool, "BOOLEAN"), (int, "BIGINT"), (float, "DOUBLE"), (str, "VARCHAR"))
# Any 64 bits, signed or not, are a random generator's seed.
_WIDE: Mapping[tuple[str, ...], str] = {("rng_seed",): "HUGEINT"}


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
_IDENTITY = (
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
        (training.TrainingDescribed,),
        without=("model.modules",),
    ),
    Table(
        "modules",
        "Modules of the models of descriptions, before anything grew: a row each.",
        (training.TrainingDescribed,),
        rows={training.TrainingDescribed: "model.modules"},
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
        also=("last_adaptation_step",),
    ),
    Table(
        "steps",
        "Optimizer steps: a row each.",
        (telemetry.StepsMeasured,),
        rows={telemetry.StepsMeasured: "steps"},
        also=("metrics", "learning_rates", "live_seeds", "last_adaptation_step", "samples_per_s", "memory_bytes"),
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
    Table(
        "acknowledgements",
        "Alerts that people took over, until when; `about` is the run whose alert it is.",
        (accountability.AlertAcknowledged,),
    ),
)
BY_NAME = {table.name: table for table in TABLES}
UNTABLED = (run.StreamEnded,)
"""Kinds that stand in `events` alone: they say no more than that a topic ended."""

_DATA = Column("data", "VARCHAR", "The payload, JSON as it was written.")
EVENTS = (
    *_IDENTITY[:1],
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
    *_IDENTITY[1:],
    Column("trace", "VARCHAR", "W3C trace context; NULL where there is none."),
    Column("chain", "BLOB", "The digest of the record over its content and its predecessor's chain; NULL for a derived record."),
    Column("follows", "BOOLEAN", "True: the chain is that of the record after its predecessor in its topic; NULL for a derived record."),
    _DATA,
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


@cache
def columns_of(table: Table) -> tuple[Column, ...]:
    """The columns of `table`, in order; those of several kinds by name."""
    found = {column.name: column for column in PLACE}
    if not table.rows:
        found |= {column.name: column for column in _IDENTITY}
    if table.status:
        found["status"] = Column("status", "VARCHAR", f"One of {', '.join(table.status.values())}.")
    for kind in table.kinds:
        for column in _payload_columns(table, kind):
            known = found.get(column.name)
            assert known is None or known.type == column.type or known in PLACE, f"{table.name}.{column.name} has two types"
            found[column.name] = known if known is not None and known not in PLACE else column
    return tuple(found.values())


def described() -> Iterator[tuple[str, str, tuple[Column, ...]]]:
    """Every table with its meaning and its columns, `events` first."""
    yield from ((name, *own) for name, own in OWN.items())
    yield from ((table.name, table.meaning, columns_of(table)) for table in TABLES)


def ddl(name: str, columns: Sequence[Column]) -> str:
    """The statement that makes the table `name`."""
    # Nothing is as large as the payloads; all other ways to compress them are tried in vain, which takes most of a checkpoint's time.
    kinds = (f"{_quoted(column.name)} {column.type}{' USING COMPRESSION zstd' if column is _DATA else ''}" for column in columns)
    return f"CREATE TABLE {_quoted(name)} ({', '.join(kinds)})"


def comments(name: str, meaning: str, columns: Sequence[Column]) -> Iterator[str]:
    """The statements that keep the meaning of a table and of its columns in the database itself."""
    yield comment_on("TABLE", _quoted(name), meaning)
    for column in columns:
        yield comment_on("COLUMN", f"{_quoted(name)}.{_quoted(column.name)}", column.meaning)


def comment_on(kind: str, name: str, meaning: str) -> str:
    """The statement that keeps the meaning of one thing in the database."""
    return f"COMMENT ON {kind} {name} IS {sql_text(meaning)}"


def selection(table: Table, kind: type[Event], source: str) -> str:
    """The SELECT that gives the rows of `table` from the records of `kind` in the relation `source`, which is like `events`."""
    own = {column.name: column.expression for column in (*PLACE, *(() if table.rows else _IDENTITY), *_payload_columns(table, kind))}
    if table.status:
        own["status"] = sql_text(table.status[kind])
    listed = ", ".join(f"{own.get(column.name, 'NULL')} AS {_quoted(column.name)}" for column in columns_of(table))
    structure = json.dumps({path[0]: _structure_below(kind, path[:1], _paths(table, kind)) for path in _paths(table, kind)})
    read = (
        f"SELECT *, from_json_strict(data, {sql_text(structure)}) AS j FROM {source} WHERE type = {sql_text(kind.KIND)} AND problem IS NULL"
    )
    return f"SELECT {listed} FROM ({read})"


def insertion(table: Table, kind: type[Event], source: str) -> str:
    """The statement that adds those rows to the table."""
    return f"INSERT INTO {_quoted(table.name)} {selection(table, kind, source)}"


def tables_of(kinds: Collection[str]) -> Iterator[tuple[Table, type[Event]]]:
    """Each table that events of the written names `kinds` stand in, with the kind."""
    for table in TABLES:
        for kind in table.kinds:
            if kind.KIND in kinds:
                yield table, kind


def paths_of(kind: type[Event]) -> Iterator[str]:
    """Every path of a payload of `kind` that is a column or may give rows, dotted."""
    for path, _, _ in _fields(kind, ()):
        yield ".".join(path)


def _payload_columns(table: Table, kind: type[Event]) -> Iterator[Column]:
    if not table.rows:
        for path, annotation, meaning in _fields(kind, ()):
            if not _is_within(path, table.without):
                yield Column(_name(path), _WIDE.get(path) or _sql(annotation), meaning, _reached(path))
        return
    rows = tuple(table.rows[kind].split("."))
    model = _row_model(kind, rows)
    for name, annotation in get_type_hints(model, include_extras=True).items():
        if name in model.model_fields:
            entry = get_args(_bare(annotation))[0] if issubclass(model, Columns) else annotation
            yield Column(_name((name,)), _sql(entry), field_meanings(model).get(name, ""), f"unnest({_reached((*rows, name))})")
    for path, annotation, meaning in _fields(kind, ()):
        if path[0] in table.also:
            yield _beside(path, annotation, meaning, _reached((*rows, next(iter(model.model_fields)))))


def _beside(path: tuple[str, ...], annotation: Any, meaning: str, rows: str) -> Column:
    """A field that stands beside the columns: the same for each row, or, of a map of columns, the row's own entry of each."""
    value = get_args(_bare(annotation))[1] if get_origin(_bare(annotation)) is dict else None
    if value is None or get_origin(_bare(value)) is not tuple:
        return Column(_name(path), _sql(annotation), meaning, _reached(path))
    entry = "lambda e: {'key': e.key, 'value': e.value[i]}"
    each = f"lambda i: map_from_entries(list_transform(map_entries({_reached(path)}), {entry}))"
    inner = f"MAP(VARCHAR, {_sql(get_args(_bare(value))[0])})"
    return Column(_name(path), inner, meaning, f"unnest(list_transform(range(1, len({rows}) + 1), {each}))")


def _fields(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """Each field of `model` with its path and its meaning; of a part the fields of that instead."""
    hints = get_type_hints(model, include_extras=True)
    for name in model.model_fields:
        path, annotation = (*above, name), hints[name]
        part = _part(annotation)
        if part is not None and not issubclass(part, Columns):
            yield from _fields(part, path)
        else:
            yield path, annotation, field_meanings(model).get(name, "")


def _paths(table: Table, kind: type[Event]) -> list[tuple[str, ...]]:
    """The paths of the payload that the table reads."""
    if not table.rows:
        return [path for path, _, _ in _fields(kind, ()) if not _is_within(path, table.without)]
    return [tuple(table.rows[kind].split(".")), *((name,) for name in table.also)]


def _structure_below(kind: type[BaseModel], above: tuple[str, ...], paths: Collection[tuple[str, ...]]) -> Any:
    """DuckDB's structure of the value at `above`, with those of its fields alone that lead to one of `paths`."""
    annotation = _annotation(kind, above)
    if above in _WIDE:
        return _WIDE[above]
    part = _part(annotation)
    if part is None or above in paths:
        return _structure(annotation)
    inner = dict.fromkeys(path[len(above)] for path in paths if path[: len(above)] == above)
    return {name: _structure_below(kind, (*above, name), paths) for name in inner}


def _structure(annotation: Any) -> Any:
    """DuckDB's structure of a whole value."""
    row, part, bare = _by_column(annotation), _part(annotation), _bare(annotation)
    if row is not None:
        return {name: [_structure(hint)] for name, hint in get_type_hints(row, include_extras=True).items() if name in row.model_fields}
    if part is not None:
        return {name: _structure(hint) for name, hint in get_type_hints(part, include_extras=True).items() if name in part.model_fields}
    if get_origin(bare) is tuple:
        return [_structure(get_args(bare)[0])]
    return _sql(annotation)


def _sql(annotation: Any) -> str:
    """DuckDB's type of a value."""
    bare, part = _bare(annotation), _part(annotation)
    if part is not None:
        hints = get_type_hints(part, include_extras=True)
        return f"STRUCT({', '.join(f'{_quoted(name)} {_sql(hints[name])}' for name in part.model_fields)})"
    if get_origin(bare) is tuple:
        return f"{_sql(get_args(bare)[0])}[]"
    if get_origin(bare) is dict:
        return f"MAP(VARCHAR, {_sql(get_args(bare)[1])})"
    if get_origin(bare) is Literal or (isinstance(bare, type) and issubclass(bare, Enum)):
        return "VARCHAR"
    supertype = getattr(bare, "__supertype__", bare)
    return next((name for kind, name in _SCALARS if supertype is kind), "JSON")


def _bare(annotation: Any) -> Any:
    """The annotation without `Annotated` and without None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        (inner, *others) = [part for part in get_args(annotation) if part is not type(None)]
        return annotation if others else _bare(inner)
    return annotation


def _part(annotation: Any) -> type[BaseModel] | None:
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _by_column(annotation: Any) -> type[BaseModel] | None:
    """The model of a row, where the annotation is of rows that are written by column."""
    if get_origin(annotation) is Annotated and any(isinstance(mark, ByColumn) for mark in get_args(annotation)[1:]):
        row: type[BaseModel] = get_args(_bare(annotation))[0]
        return row
    return None


def _annotation(kind: type[BaseModel], path: tuple[str, ...]) -> Any:
    found = get_type_hints(kind, include_extras=True)[path[0]]
    part = _part(found)
    if len(path) == 1 or part is None:
        return found
    return _annotation(part, path[1:])


def _row_model(kind: type[BaseModel], path: tuple[str, ...]) -> type[BaseModel]:
    annotation = _annotation(kind, path)
    model = _by_column(annotation) or _part(annotation)
    assert model is not None, f"{kind.__name__}.{'.'.join(path)} has no columns"
    return model


def _is_within(path: tuple[str, ...], dotted: Collection[str]) -> bool:
    return any(path[: len(parts)] == parts for parts in (tuple(one.split(".")) for one in dotted))


def _name(path: tuple[str, ...]) -> str:
    name = "_".join(path)
    return _RENAMED.get(name, name)


def _reached(path: tuple[str, ...]) -> str:
    return ".".join(("j", *map(_quoted, path)))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sql_text(text: str) -> str:
    """`text` as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


assert set(KINDS) == {kind for table in TABLES for kind in table.kinds} | set(UNTABLED), "every kind has a table, or is said to have none"
