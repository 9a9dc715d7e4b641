"""`esper alerts`: what is firing, which rules are in force, and whether the handlers deliver."""

import argparse
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from esper.cli.arguments import RUN_HELP, Subcommands, directory_of, log_name, log_option, new_command, run_of
from esper.cli.output import Output
from esper.cli.text import hanging, short_id
from esper.errors import LogError, RuleError, SettingsError
from esper.events.envelope import RunId
from esper.events.kinds.accountability import AlertAcknowledged
from esper.folds.monitoring.origin import origin_words
from esper.history.alert_lines import AlertLine, alert_id, alerts_of, current_alerts
from esper.history.resume import log_flag
from esper.history.trail import until_of
from esper.kafka.cluster import is_kafka
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.oona.observed import is_observed
from esper.settings import nearest, person, said
from esper.stderr import warn
from esper.words import duration

if TYPE_CHECKING:
    from esper.folds.monitoring.rules import Rule

_LASTING = re.compile(r"(?P<amount>[0-9]{1,6})(?P<unit>[mhd])", re.ASCII)
_UNITS = {"m": 60, "h": 3600, "d": 86400}
_STYLES = {"critical": "bold red", "warning": "yellow", "info": ""}


def add(commands: Subcommands) -> None:
    """Adds the commands."""
    parser = commands.add_parser("alerts", help="what is firing, taking one over, the rules in force, and a test of the handlers")
    parts = parser.add_subparsers(metavar="WHAT", required=True)
    words = "what is pending or firing; with RUN, all alerts of that run"
    listed = new_command(parts, "list", _run_list, words, json="one JSON object per alert", kafka=True)
    listed.add_argument("run", metavar="RUN", nargs="?", help=RUN_HELP)
    words = "take over an alert that fires: it is silent until then"
    ack = new_command(parts, "ack", _run_ack, words, json="what was recorded as one JSON object")
    ack.add_argument("alert", metavar="ALERT", help="its id in `esper alerts list`")
    ack.add_argument("--for", dest="lasting", metavar="TIME", required=True, help="how long it is silent, like 30m, 2h or 1d")
    ack.add_argument("--by", metavar="NAME", required=True, help="the person who takes it over")
    ack.add_argument("--note", metavar="TEXT", required=True, help="what is done about it")
    words = "the rules in force, and the monitoring settings that are not as built in"
    rules = new_command(parts, "rules", _run_rules, words, json="one JSON object per rule, and per setting that is not as built in")
    words = "alert rules and monitoring settings (default: alerts.toml in the log's directory)"
    rules.add_argument("--rules", type=Path, metavar="FILE", help=words)
    test = new_command(parts, "test", _run_test, "send one message through every handler", json="one JSON object per handler")
    test.add_argument("--delivery", type=Path, metavar="FILE", help="handlers (default: delivery.toml in the log's directory)")


def _run_list(arguments: argparse.Namespace, out: Output) -> int:
    """Lists alerts. Returns 1 where those of a run could not be read."""
    unreadable: list[LogError] = []
    directory, run = (directory_of(arguments), None) if arguments.run is None else run_of(arguments)
    lines: Iterable[AlertLine] = current_alerts(directory, unreadable.append) if run is None else alerts_of(directory, run)
    written = out.rows(lines, lambda line: _print_alert(line, log_option(arguments), out), json=arguments.json)
    for error in unreadable:
        warn(error)
    if not (written or unreadable or arguments.json):
        out.line("nothing is pending or firing" if run is None else _none(directory, run, log_name(arguments)))
    return 1 if unreadable else 0


def _run_ack(arguments: argparse.Namespace, out: Output) -> int:
    """Records that a person has taken over an alert."""
    by, note = person("--by", arguments.by), said("--note", arguments.note, "a text")
    lasting = _lasting("--for", arguments.lasting)
    directory = directory_of(arguments)
    known = {alert_id(line.run, line.fingerprint): line for line in current_alerts(directory, warn) if line.status == "firing"}
    line = known.get(arguments.alert)
    if line is None:
        there = ", ".join(known) or "none"
        raise RuleError(
            f"expected the id of an alert that fires, got {arguments.alert!r}{nearest(arguments.alert, known)}; there are: {there}"
        )
    until = f"{datetime.now(UTC) + lasting:%Y-%m-%dT%H:%M:%SZ}"
    event = AlertAcknowledged(about=line.run, fingerprint=line.fingerprint, rule=line.rule, since=line.since, until=until, note=note, by=by)
    append_to_trail(directory, [event], lambda: datetime.now(UTC))
    if arguments.json:
        out.json({"type": event.KIND, "data": event})
    else:
        out.line(" ".join(f"{line.rule} of run {short_id(line.run)} is silent until {_utc(until)}, as {by} said: {note}".split()))
    return 0


def _lasting(name: str, text: str) -> timedelta:
    """The duration that `text` names. Raises SettingsError."""
    found = _LASTING.fullmatch(text)
    lasting = timedelta(seconds=int(found["amount"]) * _UNITS[found["unit"]]) if found else timedelta(0)
    if not timedelta(0) < lasting <= timedelta(days=366):
        raise SettingsError(f"{name}: expected a time like 30m, 2h or 1d, a year at most, got {text!r}")
    return lasting


def _utc(written: str) -> str:
    return f"{written[:16].replace('T', ' ')} UTC"


def _none(directory: Directory, run: RunId, log: str) -> str:
    """Why `run` has no alerts: it had none, or it was never observed."""
    if is_observed(directory.path / run):
        return "no alert was raised in this run"
    if is_kafka(log):
        return f"no worker derived anything from this run yet: esper worker --kafka {log}"
    return f"nobody observed this run; from its first record on: esper observe --from-start{log_flag(directory.path)}"


def _print_alert(line: AlertLine, log: str, out: Output) -> None:
    labels = " ".join(f"{name}={value}" for name, value in sorted(line.labels.items()))
    head = Text(f"{line.status:<8} ", style="dim" if line.status == "resolved" else "bold")
    head.append(f"{line.severity:<8} ", style=_STYLES.get(line.severity, "")).append(f"{line.rule}  {labels}".rstrip())
    since = f"since {line.since[:19].replace('T', ' ')} UTC, run {short_id(line.run)}, esper show {line.run[-6:]} --at {line.moment}{log}"
    out.line(head, f"    {since}")
    if line.summary:
        out.print(hanging("    ", line.summary))
    if line.origin is not None:
        out.print(hanging("    ", origin_words(line.origin)))
    if line.status != "resolved":
        out.line(Text(f"    id {alert_id(line.run, line.fingerprint)}", style="dim"))
    if (taken := line.acknowledged) is not None:
        ended = "acknowledged until" if until_of(taken) > datetime.now(UTC) else "was acknowledged until"
        out.print(hanging("    ", f"{ended} {_utc(taken.until)} by {taken.by}: {taken.note}"))
    for told in line.told:
        words = f"{told.handler}: {told.what} {told.outcome}{f', {told.error}' if told.error else ''}"
        out.print(hanging("    ", words, style="dim"))


def _run_rules(arguments: argparse.Namespace, out: Output) -> int:
    """Lists the rules in force, and before them the settings that are not as built in."""
    from esper.observer.build import watching_of
    from esper.observer.rule_files import changed_settings

    directory = directory_of(arguments)
    watching = watching_of(directory, arguments.rules)
    out.rows(
        changed_settings(watching),
        # Numbers, texts and lists of them are written alike in TOML and JSON.
        lambda one: out.line(f"setting  {one.name} = {json.dumps(one.value)}, built in: {json.dumps(one.builtin)}"),
        json=arguments.json,
        form=lambda one: {"setting": one.name, "value": one.value, "builtin": one.builtin},
    )
    out.rows(
        watching.rules,
        lambda rule: out.item(rule.severity, _STYLES[rule.severity], f"{rule.name:<28}", _condition(rule)),
        json=arguments.json,
    )
    return 0


def _condition(rule: "Rule") -> str:
    """The condition of `rule` in words."""
    from esper.folds.monitoring.rules import AnomalySource, EventSource, MetricSource

    source = rule.source
    match source:
        case MetricSource(metric, limit):
            words = f"{metric} is not finite" if limit.side == "not_finite" else f"{metric} {limit.side} {limit.value:g}"
        case AnomalySource(detector, metric):
            words = f"anomaly {detector}" + (f" in {metric}" if metric else "")
        case EventSource():
            words = source.kind.removeprefix("esper.").rpartition(".")[0]
            words += "".join(f", {name} {value}" for name, value in source.where)
            words += f", {source.count} within {duration(float(source.within_s))}" if source.within_s is not None else ""
    held = f", for {duration(float(rule.for_s))}" if rule.for_s else ""
    return f"{words}{held}  ({rule.topic})"


def _run_test(arguments: argparse.Namespace, out: Output) -> int:
    """Sends one message through every handler. Returns 1 where one was not delivered."""
    from esper.observer.delivery.delivery_file import delivery_settings
    from esper.observer.delivery.handlers import build_handlers, run_handler_tests

    directory = directory_of(arguments)
    tests = out.rows(
        run_handler_tests(build_handlers(delivery_settings(directory.path, arguments.delivery))),
        lambda test: out.line(
            Text("delivered " if test.answer.delivered else "failed    ", style="green" if test.answer.delivered else "bold red").append(
                f"{test.handler}  {test.took_s * 1e3:.1f} ms  {test.answer.error or ''}".rstrip(), style=""
            )
        ),
        json=arguments.json,
        form=lambda test: {"handler": test.handler, "delivered": test.answer.delivered, "error": test.answer.error, "took_s": test.took_s},
        none=f"no handlers: alerts are recorded and delivered to nobody; name some in {directory.path / 'delivery.toml'}",
    )
    return 0 if all(test.answer.delivered for test in tests) else 1
