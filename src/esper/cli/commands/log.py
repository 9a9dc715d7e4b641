"""`esper log` and `esper export`: a run's records, on standard output or as files."""

import argparse
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.filesize import decimal
from rich.text import Text

from esper.cli.arguments import Subcommands, history_of, mirror_of, new_command, resume_hint_of, topic
from esper.cli.commands.audit_tables import require_duckdb
from esper.cli.decisions_and_refusals import adaptation, confidence_and_urgency, evidence
from esper.cli.kafka_log import followed
from esper.cli.output import Output
from esper.cli.text import count, metric, rounded, whole_words
from esper.errors import DataError
from esper.events import codec
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds import control, epoch, kernels, lifecycle, telemetry, training_description, wiring_findings
from esper.events.kinds import run as run_kinds
from esper.events.topics import TELEMETRY
from esper.folds.timeline import note_of
from esper.history.export import export, line_of
from esper.history.run_history import History, mean
from esper.oona.directory import Directory
from esper.stderr import warn
from esper.words import duration, plural


def add(commands: Subcommands) -> None:
    """Adds the commands."""
    parser = new_command(commands, "log", _run_log, "a run's records, oldest first", run=True, kafka=True)
    parser.add_argument(
        "--topic", action="append", default=[], metavar="T", help="only this topic, or the one with this in its name; repeatable"
    )
    parser.add_argument("--follow", action="store_true", help="continue with new records until the run ends")
    parser.add_argument("--format", choices=("table", "jsonl"), default="table", help="a table, or JSON with payloads as they were written")
    words = "a run as files: JSON lines by topic and date, or tables as Parquet or CSV"
    parser = new_command(commands, "export", _run_export, words, run=True, json="what was written as one JSON object", kafka=True)
    words = "jsonl: one JSON object a line, payloads as they were written; parquet and csv: the tables that SQL has of the run"
    parser.add_argument("--format", choices=("jsonl", "parquet", "csv"), required=True, help=words)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder (default: export-<run> in the current directory)")


def _run_log(arguments: argparse.Namespace, out: Output) -> int:
    """Writes the records."""
    topics = frozenset(topic(name) for name in arguments.topic) or None
    table, alone = arguments.format == "table", False
    width = out.console.width if out.interactive else None

    def waiting() -> None:
        nonlocal alone
        how = resume_hint_of(directory, history, arguments)
        if how is not None and not alone:
            warn(f"no process writes this run now, and it has not ended: {how}; waiting until it goes on")
        alone = how is not None

    directory, history = history_of(arguments)
    mirror = mirror_of(arguments) if arguments.follow else None
    with history, nullcontext() if mirror is None else followed(*mirror, history.run):
        if table:
            out.line(_headings(width))
        records = history.follow(topics, waiting=waiting) if arguments.follow else history.records(topics)
        for record in records:
            out.line(_line(record, width) if table else line_of(record).decode())
    return 0


def _run_export(arguments: argparse.Namespace, out: Output) -> int:
    """Exports the run."""
    directory, history = history_of(arguments)
    folder = arguments.out or Path(f"export-{history.run[-6:]}")
    with history:
        gone = history.gone
        exported = _lines(history, folder) if arguments.format == "jsonl" else _tables(directory, history.run, folder, arguments.format)
    if gone:
        warn(f"run {history.run}: {gone.words()}")
    if arguments.json:
        out.json(exported.report)
    else:
        out.line(*(f"{held:>8}  {folder / name}" for name, held in sorted(exported.files.items())), exported.words)
    return 0


class _Exported(NamedTuple):
    """An export: as an object of JSON, the records or rows by file name, and a line about all of it."""

    report: object
    files: Mapping[str, int]
    words: str


def _lines(history: History, folder: Path) -> _Exported:
    made = export(history, folder)
    return _Exported(made, made.files, f"{count(made.records)} records of run {made.run}, up to moment {made.moment}")


def _tables(directory: Directory, run: RunId, folder: Path, form: Literal["parquet", "csv"]) -> _Exported:
    require_duckdb()
    from esper.audit.publish import publish_run

    made = publish_run(directory, run, folder, form)
    return _Exported(made, made.files, f"{count(made.rows)} rows in {len(made.files)} tables of run {run}, {decimal(made.size_bytes)}")


_WIDE = 100


def _headings(width: int | None) -> Text:
    """The line above a table of records."""
    return Text(_head("moment", "epoch", "step", "time (UTC)", width) + f"{'event':<22} what", style="bold")


def _head(moment: object, epoch: object, step: object, time: str, width: int | None) -> str:
    """The coordinates; on a narrow terminal step and time give way to the event's words."""
    more = f" {step:>7}  {time:<12}" if width is None or width >= _WIDE else ""
    return f"{moment:>7} {epoch:>5}{more}  "


def _line(record: Record, width: int | None) -> Text:
    """`record` in one line, cut to `width` characters (None: not cut); one that does not decode is shown as such."""
    name = record.type.removeprefix("esper.").rpartition(".v")[0]
    time = f"{record.time:%H:%M:%S}.{record.time.microsecond // 1000:03}"
    kind = Text(name, style="dim" if record.topic in TELEMETRY else "cyan")
    kind.truncate(22, overflow="ellipsis", pad=True)
    text = Text(_head(record.moment, record.epoch, record.step, time, width), style="dim").append_text(kind).append(" ")
    try:
        words = words_of(codec.decode(record))
    except DataError as error:
        return text.append(f"not understood: {error}", style="red")
    return text.append(words if width is None else whole_words(words, max(width - text.cell_len, 20)), style="not dim")


def words_of(event: Event) -> str:
    """`event` in words."""
    words = _WORDS.get(type(event))
    return words(event) if words is not None else note_of(event) or codec.encode(event).decode()


def _seed(event: Any) -> str:  # Any: every caller's kind has a site and a seed; the table below says which they are.
    return f"{event.site} s{event.seed}"


def _epoch(event: epoch.EpochCompleted) -> str:
    validation = "not validated" if event.validation is None else f"valid {rounded(event.validation.loss)}"
    metrics = {} if event.validation is None else event.validation.metrics
    more = "".join(f"  {metric(name, value)}" for name, value in metrics.items())
    return f"train {rounded(event.train.loss)}  {validation}{more}  {count(event.system.parameters)} parameters"


def _steps(event: telemetry.StepsMeasured) -> str:
    steps = event.steps
    if not steps.step:
        return "no steps"
    last = next((loss for loss in reversed(steps.loss) if loss is not None), None)
    return f"steps {steps.step[0]}..{steps.step[-1]}  loss {rounded(last)}  {rounded(mean(steps.step_latency_ms), 1)} ms/step"


def _evaluated(event: lifecycle.SeedEvaluated) -> str:
    found = event.evaluation
    compared = f"{rounded(found.loss_with, 4)} with, {rounded(found.loss_without, 4)} without"
    weighed = f"n {found.n}, best of {found.k}, look {found.look}"
    return f"{_seed(event)} @{event.life} {event.purpose} at alpha {rounded(found.alpha, 2)}: {compared}, {weighed}"


# Any: the key is the kind that the function takes, and `words_of` looks it up by the event's own type.
_WORDS: dict[type[Event], Callable[[Any], str]] = {
    run_kinds.RunStarted: lambda event: (
        f"{event.task}, rng {event.rng_seed}, {count(event.parameters)} parameters, {plural(len(event.sites), 'site')}"
    ),
    training_description.TrainingDescribed: lambda event: (
        f"{event.model.kind}, {event.optimizer.kind}, {(event.loss or event.objective or event.optimizer).kind}"
    ),
    wiring_findings.OutcomeJudged: lambda event: f"{event.verdict}: valid {rounded(event.loss, 4)}, guessing {rounded(event.guessing, 4)}",
    run_kinds.CheckpointSaved: lambda event: f"{event.checkpoint} ({event.reason}) {event.digest[:12]} {decimal(event.size_bytes)}",
    run_kinds.SiteFrozen: lambda event: f"{event.site}: {event.reason}",
    run_kinds.CheckpointPruned: lambda event: f"{event.checkpoint}: {event.reason}",
    run_kinds.StreamEnded: lambda event: f"last step {event.last_step}",
    epoch.EpochCompleted: _epoch,
    lifecycle.SeedTransitioned: lambda event: f"{_seed(event)} {event.from_stage.value} → {event.to_stage.value}: {event.reason}",
    lifecycle.SeedEvaluated: _evaluated,
    control.DecisionMade: lambda event: f"{adaptation(event)}, {confidence_and_urgency(event)}: {event.reason} [{evidence(event)}]",
    control.DecisionRefused: lambda event: f"{event.rule}: {event.reason}",
    control.CommandIssued: lambda event: f"{event.command.value} {_seed(event)} {event.blueprint or ''}",
    control.CommandApplied: lambda event: f"{event.command.value} {_seed(event)}",
    control.CommandRefused: lambda event: f"{event.command.value} {_seed(event)}: {event.reason}",
    control.CommandFailed: lambda event: f"{event.command.value} {_seed(event)}: {event.error}",
    control.FieldReported: lambda event: (
        f"{_seed(event)} {event.blueprint} {event.outcome.lower()}: {rounded(event.metric_before)} → {rounded(event.metric_after)}"
    ),
    kernels.BlueprintSubmitted: lambda event: f"{_seed(event)} {event.blueprint} as {event.key[:12]}",
    kernels.KernelCompiled: lambda event: (
        f"{_seed(event)} {event.kernel[:12]} {'from the cache' if event.from_cache else f'in {rounded(event.duration_ms, 1)} ms'}"
    ),
    kernels.KernelCompileFailed: lambda event: f"{_seed(event)}: {event.error}",
    kernels.KernelCharacterized: lambda event: f"{event.kernel[:12]} {count(event.parameters)} parameters, {count(event.flops)} FLOPs",
    telemetry.StepsMeasured: _steps,
    telemetry.CustomMetricRecorded: lambda event: (
        f"{event.name}{''.join(f' {name}={label}' for name, label in event.labels.items())} {rounded(event.value)}"
    ),
    telemetry.SeedHealthMeasured: lambda event: f"{plural(sum(seed is not None for seed in event.health.seed), 'seed')} measured",
    telemetry.Heartbeat: lambda event: f"{event.doing}, {duration(event.idle_s)} since the last emit",
}
