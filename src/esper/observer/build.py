"""`esper observe` and `esper rebuild`: an observer assembled from the directory's files, and its states folded again."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from esper.errors import DataError, LogError
from esper.events.envelope import RunId
from esper.events.topics import OBSERVERS
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.rules import Rule
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.observer.delivery.delivery_file import delivery_settings
from esper.observer.delivery.handlers import build_handlers, make_deliverer
from esper.observer.leader import LEAVE_AFTER_S, OBSERVER_OUTPUT, lead, rotate_output, take_lock
from esper.observer.observing import Observer, ObserverSettings
from esper.observer.rule_files import parse_rules, parse_watching
from esper.oona.contract import START, records_between
from esper.oona.directory import Directory
from esper.oona.observed import Observed, is_observed, is_settled, observed_records
from esper.oona.steady_clock import SteadyClock
from esper.settings import read_text
from esper.stderr import warn

_warn = partial(warn, program="esper observe")
_RULES = "alerts.toml"


def builtin_rules() -> tuple[Rule, ...]:
    """The built-in alert rules."""
    return parse_rules(files("esper.observer").joinpath("builtin.toml").read_text(), "builtin.toml")


def watching_of(directory: Directory, path: Path | None = None) -> MonitorSettings:
    """The settings and rules of `directory`: the built-in ones, as `path`, or `alerts.toml` in it, changes them.

    Raises SettingsError, with the line, for the first mistake.
    """
    text, name = read_text("alert rules and settings", path, directory.path / _RULES) or ("", _RULES)
    return parse_watching(text, name, builtin_rules())


def observe(
    directory: Directory,
    *,
    rules: Path | None = None,
    delivery: Path | None = None,
    background: bool = False,
    from_start: bool = False,
    began: Callable[[], None],
    stop: Callable[[], bool],
) -> None:
    """Waits to be the leader of `directory`, then observes it until `stop`; in the background niced, until nothing is left to do.

    `began` is called when it is the leader. Raises SettingsError for a file of rules or handlers with a mistake, before it waits.
    """
    make = observer_maker(directory, rules=rules, delivery=delivery, from_start=from_start)
    if background:
        os.nice(10)

    def begin() -> Observer:
        observer = make()
        began()
        return observer

    def is_over() -> bool:
        if background:
            rotate_output(directory.path / OBSERVER_OUTPUT)
        return stop()

    lead(directory, begin, stop=is_over, leave_after_s=LEAVE_AFTER_S if background else None, waiting=partial(_report_leader, directory))


def _report_leader(directory: Directory, leader: int) -> None:
    _warn(f"process {leader} observes {directory.path} already; waiting to take over")


def observer_maker(
    directory: Directory, *, rules: Path | None = None, delivery: Path | None = None, from_start: bool = False
) -> Callable[[], Observer]:
    """A function that makes an observer of `directory` by its files. Raises SettingsError for a mistake in one of them, at once."""
    handlers = delivery_settings(directory.path, delivery)
    build_handlers(handlers)
    return partial(
        Observer,
        directory,
        ObserverSettings(monitor=watching_of(directory, rules), fresh_s=handlers.deliver_within_s),
        now=SteadyClock(),
        make_deliverer=partial(make_deliverer, directory, handlers),
        from_start=from_start,
        report=_warn,
    )


@dataclass(frozen=True, slots=True)
class _Rebuilt:
    """A run's state that was folded again. `before` is the digest of the saved state, where it was at the same position."""

    run: RunId
    records: int
    digest: str
    before: str | None

    @property
    def same(self) -> bool | None:
        """True where the state folded again is the saved one; None where none was saved at its position."""
        return None if self.before is None else self.before == self.digest


def rebuild(directory: Directory, runs: tuple[RunId, ...] | None = None) -> Iterator[_Rebuilt]:
    """Folds the states of `runs`, or of all that were observed, again from their logs; derived records stay as they are.

    The settings of each ObserverStarted hold from where it stands. Raises LogError where a process observes the directory now.
    """
    unnamed = watching_of(directory)
    lock = take_lock(directory)
    try:
        for run in directory.names(hidden=True) if runs is None else runs:
            folder = directory.path / run
            if is_observed(folder):
                yield _rebuilt(directory, run, unnamed)
            elif runs is not None:
                raise LogError(f"expected an observed run, got {run}: nobody observed it yet")
    finally:
        lock.release()


def _rebuilt(directory: Directory, run: RunId, unnamed: MonitorSettings) -> _Rebuilt:
    """`unnamed` are the settings where no observer named any that this version knows."""
    folder = directory.path / run
    settled = is_settled(folder)
    with Observed(folder, run) as store, directory.open(run) as log:
        saved = store.saved()
        monitor = RunMonitor(run, unnamed)
        monitor.fold(lambda: records_between(log, START, saved.derived_to), observed_records(folder, run, OBSERVERS))
        before = None
        if saved.parts and saved.state_to == saved.derived_to:
            with suppress(DataError):  # The state of another version.
                before = RunMonitor.load(run, saved.parts).digest()
        store.save((), saved.derived_to, monitor.save())
        if settled:
            store.seal()
    return _Rebuilt(run, saved.derived_to.records_since(START), monitor.digest(), before)
