"""One log at a time, projected and asked; a copy of an empty projection is made faster than another one."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.running import CheckResult, Verdict, run_checks
from esper.audit.conflicts import compare_with_log
from esper.audit.projection import AUDIT_FILE, Projection
from esper.events.envelope import RunId
from esper.oona.directory import Directory


def ask(directory: Directory, run: RunId, empty_projection: Path | None = None) -> Mapping[str, CheckResult]:
    """The result of each check about `run`, by the check's name; the log is projected afresh."""
    path = directory.path / AUDIT_FILE
    if empty_projection is not None:
        shutil.copy(empty_projection, path)
    with Projection(directory, path) as projection:
        projection.refresh()
        compare_with_log(projection, [run])
        return {result.check.name: result for result in run_checks(projection.connection, every_check(), [run])}


def named(results: Mapping[str, CheckResult], verdict: Verdict) -> set[str]:
    """The names of the checks with that verdict."""
    return {name for name, result in results.items() if result.verdict is verdict}
