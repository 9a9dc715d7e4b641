"""Files beside a log that people write: alert rules, and whom alerts reach."""

from pathlib import Path

from esper.errors import SettingsError


def text_of(named: Path | None, usual: Path, what: str) -> tuple[str, Path] | None:
    """The text of the file that was `named`, else of the `usual` one, and where it stands; None where only the usual one is missing.

    Raises SettingsError, calling it `what`, for a named file that is not there and for one that cannot be read.
    """
    where = usual if named is None else named
    try:
        return where.read_text(), where
    except FileNotFoundError:
        if named is None:
            return None
        raise SettingsError(f"expected {what} at {named}, got nothing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read {what} at {where}: {error}") from error
