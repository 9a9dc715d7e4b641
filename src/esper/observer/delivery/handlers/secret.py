"""Secrets: read from a file or the environment when a handler is made, never shown by what holds them, and taken out of what others say."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from esper.errors import SettingsError

LONGEST_BYTES = 64 * 1024
_SHORTEST_HIDDEN = 4  # Fewer letters would be found by chance in any text.


class Secret:
    """A text that no message, error or representation shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one who sends it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"


class SecretSource(NamedTuple):
    """Where a secret is: in a file, or in a variable of the environment."""

    file: Path | None = None
    variable: str | None = None

    def read(self) -> Secret:
        """The secret without the line's end. Raises SettingsError naming the place, never what stands there."""
        if self.file is not None:
            return Secret(self._from_file(self.file))
        assert self.variable is not None, "a secret comes from somewhere"
        text = os.environ.get(self.variable, "")
        if not text:
            raise SettingsError(f"expected a secret in the environment variable {self.variable}, found none")
        return Secret(text)

    def _from_file(self, file: Path) -> str:
        try:
            with file.open("rb") as opened:
                found = opened.read(LONGEST_BYTES + 1)
        except OSError as error:
            raise SettingsError(f"expected a secret in {file}: {error.strerror}") from error
        text = found.decode(errors="replace").rstrip("\r\n")  # A UnicodeDecodeError would carry the bytes along.
        if "\ufffd" in text:
            raise SettingsError(f"expected a secret in {file}, as UTF-8: found other bytes")
        if not text or len(found) > LONGEST_BYTES:
            raise SettingsError(f"expected a secret of 1 to {LONGEST_BYTES} bytes in {file}, found {len(found)}")
        return text


def readable(text: str, secrets: Iterable[Secret] = (), *, limit: int = 200) -> str:
    """`text` of somebody else as one line that can be shown and kept: without secrets or control characters, at most `limit` long."""
    for secret in secrets:
        if len(secret.reveal()) >= _SHORTEST_HIDDEN:
            text = text.replace(secret.reveal(), "***")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
