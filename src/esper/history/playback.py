"""A run replayed from its log: every record through the folds, in order, at the pace of its own clock or at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from esper.errors import RuleError
from esper.events.envelope import Record
from esper.folds.run_state import digest
from esper.history.run_history import FoldedRun, History
from esper.history.state_at import EPOCH_ENDS

# A run that was resumed the next morning is not replayed with the night in it.
PAUSE_LIMIT_S = 2.0


class EpochDigest(NamedTuple):
    """The digest of a state whose last fact is of `epoch`, at `moment`; `over`: that epoch had ended and its decisions taken effect."""

    epoch: int
    moment: int
    digest: str
    over: bool


class _Frame(NamedTuple):
    """A record just replayed and the run as it then stands, in one object that goes on changing; `over`: the epoch that ended before it."""

    record: Record
    folded: FoldedRun
    over: EpochDigest | None


@dataclass
class Replay:
    """A replay of `history` from moment `first` to moment `last`, both included (None: its ends).

    `speed` is how many times faster than the run's own clock, None as fast as it goes; `sleep` is what waits. Records before `first` are
    folded without a frame, so every state is the state of the whole run. `digests` asks for the digest of each epoch.
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
        self.folded = FoldedRun(self.history.run)
        self._ended = self._reported = 0  # The last epoch that was over, and the last whose digest was in a frame.

    def frames(self) -> Iterator[_Frame]:
        """Every record with the run as it then stands. Raises BlockedError at a fact that this version cannot understand."""
        before: datetime | None = None
        for record in self.history.records():
            if self.last is not None and record.moment > self.last:
                return
            shown = self.first is None or record.moment >= self.first
            over = self._over(record) if shown else None
            if shown and self.speed is not None and before is not None:
                pause_s = min((record.time - before).total_seconds(), PAUSE_LIMIT_S) / self.speed
                if pause_s > 0:
                    self.sleep(pause_s)
            before = record.time
            if record.type in EPOCH_ENDS:
                self._ended = record.epoch
            self.folded.take((record,))
            if shown:
                yield _Frame(record, self.folded, over)

    def final(self) -> EpochDigest:
        """The digest of the state after the last record replayed."""
        state = self.folded.state
        return EpochDigest(state.epoch, state.moment, digest(state), self._ended == state.epoch)

    def _over(self, record: Record) -> EpochDigest | None:
        """The digest of the epoch that is over once `record`, of a later one, is reached; None if there is none to report."""
        epoch = self.folded.state.epoch
        if not self.digests or not self._reported < self._ended == epoch < record.epoch:
            return None
        self._reported = epoch
        return self.final()
