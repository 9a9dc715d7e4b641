"""Lines on standard error, where a process says what a person should know. What stands in a log or an error is shown, never obeyed."""

import sys

from esper.words import escaped


def warn(words: object, program: str = "esper") -> None:
    """Writes `words` behind the program's name, at once."""
    shown = escaped(str(words), kept="\n\t")
    sys.stderr.write(f"{program}: {shown}\n")
    sys.stderr.flush()
