"""Follows what observers derive: the file beside each run, from its start, as it grows, until nothing more can come.

A file that was settled (nothing firing or undelivered) before anybody looked is history, and passed over; it is looked at again, now and
then, for an observer may open it once more. One that cannot be read leaves the others alone; it is tried again when it has changed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esper.errors import LogError
from esper.events.envelope import Record, RunId
from esper.oona.contract import Position
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE
from esper.oona.follower import RECENT_S, Look, look_at
from esper.oona.observed import end_of_observed, is_settled, read_observed

_SWEEP_S = 10.0
_LOOK_S = 1.0
_PAGE = 1000


@dataclass(slots=True)
class _Place:
    """One observed file: how far it was read, and what it looked like then."""

    position: Position | None = None
    look: Look = ()
    changed_at: float = 0.0
    settled: bool = False
    readable: bool = True


class DerivedFollower:
    """Reads the derived records of a directory as they come. One thread uses it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._places: dict[RunId, _Place] = {}
        self._swept_at = self._looked_at = float("-inf")

    @property
    def unreadable(self) -> frozenset[RunId]:
        """The runs whose observed file could not be read when it was looked at last."""
        return frozenset(run for run, place in self._places.items() if not place.readable)

    def poll(self, live: frozenset[RunId]) -> Iterator[tuple[RunId, tuple[Record, ...]]]:
        """What came since, at most one page per run; files of `live` runs are looked at every time, others less often."""
        now = time.monotonic()
        if now >= self._swept_at + _SWEEP_S:
            first = self._swept_at < 0
            self._swept_at = now
            self._sweep(skip_settled=first)
        chosen = live
        if now >= self._looked_at + _LOOK_S:
            self._looked_at = now
            chosen = live | {run for run, place in self._places.items() if not place.settled}
        for run in chosen:
            records = self._read(run)
            if records:
                yield run, records

    def _sweep(self, *, skip_settled: bool) -> None:
        names = set(self._directory.names(hidden=True))
        for gone in self._places.keys() - names:
            del self._places[gone]
        for run in names:
            folder = self._directory.path / run
            place = self._places.get(run)
            if place is None and (folder / OBSERVED_FILE).exists():
                self._places[run] = place = _Place()
                if skip_settled and is_settled(folder):
                    self._skip(folder, place)
            elif place is not None:
                place.settled = place.settled and is_settled(folder)

    def _skip(self, folder: Path, place: _Place) -> None:
        try:
            place.position = end_of_observed(folder)
            place.settled = True
        except LogError:
            place.readable = False

    def _read(self, run: RunId) -> tuple[Record, ...]:
        folder = self._directory.path / run
        look = look_at(folder, OBSERVED_FILE)
        place = self._places.setdefault(run, _Place()) if look else self._places.get(run)
        now = time.monotonic()
        if place is None or (look == place.look and now > place.changed_at + RECENT_S):
            return ()
        if look != place.look:
            place.changed_at = now
        settled = is_settled(folder)
        try:
            page = read_observed(folder, run, place.position, _PAGE)
        except LogError:
            place.look, place.readable = look, False
            return ()
        place.position, place.readable = page.position, True
        if len(page.records) < _PAGE:
            place.look, place.settled = look, settled
        return page.records
