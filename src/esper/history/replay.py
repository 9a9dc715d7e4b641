"""A run told again from its log: every record through the folds, in order, at the pace of its own clock or at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from esper.errors import RuleError
from esper.events.envelope import Record
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunRolledBack
from esper.folds.run_state import digest
from esper.history.run import History
from esper.history.view import Reading

# A run that was resumed the next morning is not replayed with the night in it.
LONGEST_PAUSE_S = 2.0

_EPOCH_ENDS = frozenset({EpochCompleted.KIND, RunRolledBack.KIND})


class EpochDigest(NamedTuple):
    """The digest of a state whose last fact is of `epoch`, at `moment`; `over`: that epoch had ended and its decisions taken effect."""

    epoch: int
    moment: int
    digest: str
    over: bool


class _Frame(NamedTuple):
    """A record just told and the run as it then stands, in one object that goes on changing; `over`: the epoch that ended before it."""

    record: Record
    reading: Reading
    over: EpochDigest | None


@dataclass
class Replay:
    """A replay of `history` from moment `first` to moment `last` (None: its ends), both told.

    `speed` is how many times faster than the run's own clock, None as fast as it goes; `sleep` is what waits. What came before `first` is
    folded, not told, so every state is the state of the whole run. `digests` asks for the digest of each epoch.
    """

    history: History
    sleep: Callable[[float], None]
    first: int | None = None
    last: int | None = None
    speed: float | None = None
    digests: bool = False

    def __post_init__(self) -> None:
        # Written so that NaN is refused: every comparison with it is false.
        if self.speed is not None and not self.speed > 0:
            raise RuleError(f"expected a speed above 0, got {self.speed!r}")
        end = self.history.end
        for name, moment in (("--from", self.first), ("--to", self.last)):
            if moment is not None and not 1 <= moment <= end:
                raise RuleError(f"run {self.history.run}: expected {name} to be a moment from 1 to {end}, got {moment}")
        if self.first is not None and self.last is not None and self.first > self.last:
            raise RuleError(f"expected --from at or before --to, got {self.first} and {self.last}")
        self.reading = Reading(self.history.run)
        self._ended = self._told = 0  # The last epoch that was over, and the last of which that was said.

    def frames(self) -> Iterator[_Frame]:
        """Every record with the run as it then stands. Raises BlockedError at a fact that this version cannot understand."""
        then: datetime | None = None
        for record in self.history.records():
            if self.last is not None and record.moment > self.last:
                return
            told = self.first is None or record.moment >= self.first
            over = self._over(record) if told else None
            if told and self.speed is not None:
                self._pause(then, record.time)
            then = record.time
            if record.type in _EPOCH_ENDS:
                self._ended = record.epoch
            self.reading.take((record,))
            if told:
                yield _Frame(record, self.reading, over)

    def final(self) -> EpochDigest:
        """The digest of the state after the last record told."""
        state = self.reading.state
        return EpochDigest(state.epoch, state.moment, digest(state), self._ended == state.epoch)

    def _over(self, record: Record) -> EpochDigest | None:
        epoch = self.reading.state.epoch
        if not self.digests or not self._told < self._ended == epoch < record.epoch:
            return None
        self._told = epoch
        return self.final()

    def _pause(self, then: datetime | None, now: datetime) -> None:
        if then is not None and self.speed is not None:
            pause_s = min((now - then).total_seconds(), LONGEST_PAUSE_S) / self.speed
            if pause_s > 0:
                self.sleep(pause_s)
