"""The states of one ledger, and their form in its changelog. Pure.

    key                     value
    meta                    positions
    settings, digest        settings of monitoring, once for all runs that have them
    run, part               one part of a run's monitor: a topic's cell, its silence, the digest of its settings; and where topics stopped
    run, "packed"           all parts of a run that is at rest, compressed to about 1 kB: its only key, and its form in memory

A run's state is kept for ever, for its bridge may send records again, or the run be resumed, after any time: what was applied before is
dropped, and a resumed run goes on from the state that it had.
"""

import time
import zlib
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from esper.errors import DataError, LogError
from esper.events.envelope import RunId
from esper.folds.monitoring.run_monitor import SETTINGS, RunMonitor

_SEPARATOR = "\x1f"
_META, _PACKED, _STOPPED = "meta", "packed", "stopped"

Saved = list[tuple[bytes, bytes | None]]
"""Keys of the changelog with their new values; None removes a key."""


class Positions(BaseModel):
    """Offsets by topic, and the number of times that a fold raised at a record, by topic and offset.

    `derived_to`: everything that follows from records before it is written. `refold_from`: all before it is in a saved state.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    derived_to: dict[str, int] = {}
    refold_from: dict[str, int] = {}
    raised: dict[str, int] = {}

    def saved(self) -> tuple[bytes, bytes]:
        """Key and value."""
        return _META.encode(), self.model_dump_json().encode()


class Stop(NamedTuple):
    """The offset at which a topic of a run stopped, and the one before which everything that follows is written all the same."""

    offset: int
    derived_to: int


_STOPS = TypeAdapter(dict[str, Stop])
_PARTS = TypeAdapter(dict[str, str])


class HostedRun:
    """A run's monitor, the topics that stopped, and the first offset by topic that its saved state lacks, since `since`."""

    __slots__ = ("applied_at", "dirty", "monitor", "packed", "since", "stopped")

    def __init__(self, monitor: RunMonitor) -> None:
        self.monitor = monitor
        self.stopped: dict[str, Stop] = {}
        self.dirty: dict[str, int] = {}
        self.since: float | None = None
        self.applied_at = time.monotonic()
        self.packed = False
        """True where the changelog has the run as packed."""

    def can_be_packed(self, quiet_s: float, now: float) -> bool:
        """True where the run is saved, and neither a clock nor another version of this program would change it without a record."""
        return self.since is None and now >= self.applied_at + quiet_s and self.monitor.at_rest and not self.stopped


class SavedStates:
    """The content of a changelog. `packed`: the runs at rest."""

    def __init__(self) -> None:
        self.positions = Positions()
        self.packed: dict[str, bytes] = {}
        self._parts: dict[str, dict[str, bytes]] = {}
        self._settings: dict[str, bytes] = {}

    def read(self, key: bytes, value: bytes | None) -> None:
        """Takes the next message of the changelog. Raises DataError for one that is none of it."""
        name, _, part = key.decode().partition(_SEPARATOR)
        if name == _META:
            try:
                self.positions = Positions.model_validate_json(value or b"")
            except ValidationError as error:
                raise DataError(f"expected positions, got {value!r:.80}") from error
            return
        place, item = (self.packed, name) if part == _PACKED else (self._parts.setdefault(name, {}), part)
        if value is None:
            place.pop(item, None)
        else:
            place[item] = value

    def runs(self) -> dict[RunId, HostedRun]:
        """The runs that are not packed, once. Raises DataError for a state that another version wrote."""
        parts, self._parts = self._parts, {}
        self._settings = parts.pop(SETTINGS, {})
        return {RunId(name): self._loaded(RunId(name), saved) for name, saved in parts.items() if saved}

    def unpack(self, name: RunId) -> HostedRun | None:
        """The run `name`, which is packed no more; None where it was not. Raises LogError for a state that another version wrote."""
        packed = self.packed.pop(name, None)
        if packed is None:
            return None
        try:
            run = self._loaded(name, {part: text.encode() for part, text in _PARTS.validate_json(zlib.decompress(packed)).items()})
        except DataError as error:
            raise LogError(f"in the changelog: {error}") from error
        run.packed = True
        return run

    def _loaded(self, name: RunId, parts: dict[str, bytes]) -> HostedRun:
        settings = self._settings.get(parts.get(SETTINGS, b"").decode())
        if settings is None:
            raise DataError(f"run {name}: expected its settings in the changelog, got none")
        run = HostedRun(RunMonitor.load(name, {part: saved for part, saved in parts.items() if part != _STOPPED} | {SETTINGS: settings}))
        run.stopped = _STOPS.validate_json(parts[_STOPPED])
        return run

    def save(self, name: RunId, run: HostedRun) -> Saved:
        """Writes what changed in `run` since it was saved, and all of it where it was packed."""
        parts, saved = self._parts_of(run, whole=run.packed)
        saved += [(_key(name, part), value) for part, value in parts.items()]
        if run.packed:
            saved.append((_key(name, _PACKED), None))
        run.dirty, run.since, run.packed = {}, None, False
        return saved

    def pack(self, name: RunId, run: HostedRun) -> Saved:
        """Writes `run` as one value in place of its parts, and keeps that instead of it."""
        parts, saved = self._parts_of(run, whole=True)
        packed = self.packed[name] = zlib.compress(_PARTS.dump_json({part: value.decode() for part, value in parts.items()}))
        return [*saved, (_key(name, _PACKED), packed), *((_key(name, part), None) for part in parts)]

    def _parts_of(self, run: HostedRun, *, whole: bool) -> tuple[dict[str, bytes], Saved]:
        """The parts to write, with the settings by their digest; and the settings themselves where they are new."""
        parts, new = run.monitor.save(whole=whole), Saved()
        parts[_STOPPED] = _STOPS.dump_json(run.stopped)
        if SETTINGS in parts:
            digest, settings = run.monitor.settings.settings_digest, parts[SETTINGS]
            parts[SETTINGS] = digest.encode()
            if digest not in self._settings:
                self._settings[digest] = settings
                new.append((_key(SETTINGS, digest), settings))
        return parts, new


def _key(name: str, part: str) -> bytes:
    return _SEPARATOR.join((name, part)).encode()
