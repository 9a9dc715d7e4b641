"""What goes wrong while a host grows. Both are DataError: the caller records them and training goes on."""

from esper.errors import DataError


class CommandError(DataError):
    """A command could not be applied; nothing has changed."""


class KernelError(DataError):
    """No kernel could be made from a blueprint, or its file is not what it must be."""
