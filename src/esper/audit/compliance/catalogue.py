"""Every check that can be made: Esper's own, and those of a user's directory."""

from importlib.resources import files
from pathlib import Path

from esper.audit.compliance.check_files import Check, checks_in
from esper.audit.compliance.rederivable import rederivable
from esper.errors import SettingsError


def every_check(own: Path | None = None) -> tuple[Check, ...]:
    """All checks by name, those of a user in the directory `own` behind Esper's.

    Raises SettingsError for a mistake in one, for a name that Esper has, and where there is none in `own`.
    """
    builtin = sorted((*checks_in(files("esper.audit.compliance") / "checks"), rederivable()), key=lambda check: check.name)
    if own is None:
        return tuple(builtin)
    if not own.is_dir():
        raise SettingsError(f"expected a directory of checks at {own}, got {'a file' if own.exists() else 'nothing'}")
    found = checks_in(own)
    if not found:
        raise SettingsError(f"expected checks in {own}, files named like my.check.sql, got none")
    for check in found:
        if check.name in {known.name for known in builtin}:
            raise SettingsError(f"{check.source}:1: expected a name that no check of Esper has, got {check.name!r}")
    return (*builtin, *found)
