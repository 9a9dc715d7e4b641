"""`esper compliance`: checks of runs, each with PASS, FAIL or INCONCLUSIVE."""

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from esper.cli.arguments import RUN_HELP, Subcommands, directory_of, new_command, run_of
from esper.cli.commands.audit_tables import require_duckdb, wait_for
from esper.cli.commands.querying import add_limit, limits_of
from esper.cli.output import Output
from esper.cli.text import short_id
from esper.errors import LogError, SettingsError
from esper.events.envelope import RunId
from esper.events.kinds.accountability import ComplianceChecked
from esper.oona.daily_run import append_to_trail
from esper.oona.directory import Directory
from esper.settings import nearest, person_or_none
from esper.stderr import warn
from esper.words import plural

if TYPE_CHECKING:
    from esper.audit.compliance.check_files import Check
    from esper.audit.compliance.running import CheckResult
    from esper.audit.door.query import QueryLimits

_STYLES = {"PASS": "green", "FAIL": "bold red", "INCONCLUSIVE": "yellow"}
_FORMATS = ("text", "json", "csv", "junit", "html")
_LINES = 5
"""Violations of a result that are shown as text."""


def add(commands: Subcommands) -> None:
    """Adds the command."""
    parser = new_command(commands, "compliance", _run, "check runs by rules; without RUN, what is checked", kafka=True)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("run", metavar="RUN", nargs="?", help=RUN_HELP)
    which.add_argument("--all", action="store_true", help="check every run")
    parser.add_argument("--check", metavar="NAME", action="append", help="this check alone; may be given again")
    parser.add_argument("--checks", metavar="DIR", type=Path, help="a directory with checks of your own, made besides")
    add_limit(parser, "a check of yours")
    parser.add_argument("--format", choices=_FORMATS, default="text", help="text, json (one object per result), csv, junit or html")
    parser.add_argument("--by", metavar="NAME", help="the person who asks; it is recorded with the results")
    parser.add_argument("--strict", action="store_true", help="what is INCONCLUSIVE fails too")


def _run(arguments: argparse.Namespace, out: Output) -> int:
    """Checks runs. Returns 1 where a check found a violation, with --strict also where there was nothing to check."""
    require_duckdb()
    from esper.audit.compliance.running import Verdict

    checks, by, limits = _chosen(arguments), person_or_none("--by", arguments.by), limits_of(arguments)
    if arguments.run is None and not arguments.all:
        return _list(checks, arguments, out)
    directory, runs = _asked(arguments)
    results = _results(directory, checks, runs, by, limits)
    _write(results, arguments, out)
    wrong = {Verdict.FAIL, Verdict.INCONCLUSIVE} if arguments.strict else {Verdict.FAIL}
    return 1 if any(result.verdict in wrong for result in results) else 0


def _chosen(arguments: argparse.Namespace) -> Sequence["Check"]:
    """The checks that are asked for, by name. Raises SettingsError for a name that none has."""
    from esper.audit.compliance.catalogue import every_check

    known = {check.name: check for check in every_check(arguments.checks)}
    for name in arguments.check or ():
        if name not in known:
            raise SettingsError(f"--check: unknown check {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
    return [check for name, check in known.items() if arguments.check is None or name in arguments.check]


def _asked(arguments: argparse.Namespace) -> tuple[Directory, list[RunId]]:
    if not arguments.all:
        directory, run = run_of(arguments)
        return directory, [run]
    directory = directory_of(arguments)
    return directory, [run for run in directory.names() if directory.has_log(run)]


def _results(
    directory: Directory, checks: Sequence["Check"], runs: Sequence[RunId], by: str | None, limits: "QueryLimits"
) -> list["CheckResult"]:
    """The results about `runs` as they stand in the log now, compared with what was read of them before; each is a fact of the trail."""
    from esper.audit.compliance.catalogue import every_check
    from esper.audit.compliance.running import run_checks, run_own_checks
    from esper.audit.ownership import snapshot_of
    from esper.audit.snapshot import opened

    snapshot = snapshot_of(directory, compare=runs, waiting=wait_for)
    builtin = every_check()
    with opened(snapshot.path) as connection:
        results = list(run_checks(connection, [check for check in checks if check in builtin], runs))
    results += run_own_checks(snapshot.path, [check for check in checks if check not in builtin], runs, limits=limits)
    warn(f"{plural(len(runs), 'run')} checked as of {snapshot.as_of:%Y-%m-%d %H:%M:%S} UTC")
    try:
        append_to_trail(directory, [_fact(result, by) for result in results], lambda: datetime.now(UTC))
    except LogError as error:
        warn(f"that they were checked is not recorded: {error}")
    return results


def _fact(result: "CheckResult", by: str | None) -> ComplianceChecked:
    check = result.check
    return ComplianceChecked(
        about=result.run,
        check=check.name,
        version=check.header.version,
        digest=check.digest,
        result=result.verdict.value,
        population=result.population,
        violations=result.violations,
        up_to=result.up_to,
        by=by,
    )


def _write(results: Sequence["CheckResult"], arguments: argparse.Namespace, out: Output) -> None:
    from esper.audit.compliance import formats

    match arguments.format:
        case "json":
            for result in results:
                out.json(formats.as_object(result))
        case "csv":
            out.raw(formats.as_csv(results).rstrip("\n"))
        case "junit":
            out.raw(formats.as_junit(results).rstrip("\n"))
        case "html":
            out.raw(formats.as_html(results).rstrip("\n"))
        case _:
            _draw(results, out, every=not arguments.all)


def _draw(results: Sequence["CheckResult"], out: Output, *, every: bool) -> None:
    """Draws results run by run: `every` result, or of many runs the violations and a count of the rest."""
    for run in dict.fromkeys(result.run for result in results):
        mine = [result for result in results if result.run == run]
        counts = Counter(result.verdict.value for result in mine)
        for result in mine:
            if every or result.violations:
                words = f"{result.check.header.title} ({result.population:,} asked about)"
                out.item(f"{result.verdict.value:<12}", _STYLES[result.verdict.value], f"{result.check.name:<28}", words)
            for violation in result.shown[:_LINES]:
                out.line(f"    moment {violation.moment}: {violation.what}")
            if result.violations > _LINES:
                out.line(f"    and {result.violations - _LINES:,} more: --format json")
        out.line(f"run {short_id(run)}: {', '.join(f'{counts[word]} {word}' for word in _STYLES if counts[word])}")


def _list(checks: Sequence["Check"], arguments: argparse.Namespace, out: Output) -> int:
    out.rows(
        checks,
        lambda check: out.item(f"v{check.header.version}", "", f"{check.name:<28}", check.header.title),
        json=arguments.format == "json",
        form=lambda check: {**check.header.model_dump(), "digest": check.digest},
    )
    return 0
