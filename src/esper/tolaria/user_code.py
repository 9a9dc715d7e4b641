"""Code that the user gave: which part of it raised, and names of the values that it gave or returned."""

from types import TracebackType

from torch import Tensor


class Noted:
    """Within, an exception gets a note: which part of the user's code raised it, or at which batch. Costs a third of a microsecond."""

    __slots__ = ("_note",)

    def __init__(self, note: str) -> None:
        self._note = note

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            error.add_note(self._note)


def raised(error: Exception) -> str:
    """`error` in one line: its class, the notes of which code raised it and where, the first and the last line of its message."""
    lines = [line for line in map(str.strip, str(error).splitlines()) if line] or ["no message"]
    message = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"  # A loader's worker sends its whole traceback.
    return f"{' '.join((type(error).__name__, *getattr(error, '__notes__', ())))}: {message}"


def named(value: object) -> str:
    """`value` in words, without its content: None, a class by its name, else its type, with the length of a list, tuple or map."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIO" else "a"
    of = (
        f" of {len(value)}"
        if isinstance(value, tuple | list | dict)
        else f" of shape {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else ""
    )
    return f"{article} {kind}{of}"
