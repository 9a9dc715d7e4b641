"""Esper trains neural networks that grow while they train, and keeps what happened in a durable log.

Importing this costs nothing and needs no torch: the names below are looked up when they are first used.
"""

from typing import TYPE_CHECKING

from esper import variables as variables  # Before torch: it may set one.

if TYPE_CHECKING:
    from esper.api.fit import Grow, fit
    from esper.api.measure import measure
    from esper.api.sql import sql
    from esper.api.task import Task
    from esper.history.run_history import open_run as open  # noqa: A004 - esper.open reads as what it does
    from esper.processes.train import Result

__all__ = ["Grow", "Result", "Task", "fit", "measure", "open", "sql"]

_PLACES = {
    "Grow": "esper.api.fit:Grow",
    "Result": "esper.processes.train:Result",
    "Task": "esper.api.task:Task",
    "fit": "esper.api.fit:fit",
    "measure": "esper.api.measure:measure",
    "open": "esper.history.run_history:open_run",
    "sql": "esper.api.sql:sql",
}


def __getattr__(name: str) -> object:
    from pkgutil import resolve_name

    if name not in _PLACES:
        raise AttributeError(f"module 'esper' has no attribute {name!r}; it has {', '.join(__all__)}")
    found: object = resolve_name(_PLACES[name])
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
