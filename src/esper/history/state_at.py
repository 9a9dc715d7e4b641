"""The state of a run at a moment, or when an epoch was over, folded from its facts.

The state "at epoch E" is the state after the last fact whose epoch is at most E: that epoch is over, and its decisions have taken effect.
"""

from bisect import bisect_left, bisect_right

from esper.errors import RuleError
from esper.events.envelope import Record, RunId
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.run import RunRolledBack
from esper.events.topics import EPOCH, FACTS, RUN
from esper.folds.run_state import RunState, step
from esper.oona.contract import Log, Position, pages_of

EPOCH_ENDS = frozenset({EpochCompleted.KIND, RunRolledBack.KIND})
_EPOCH_TOPICS = frozenset({EPOCH, RUN})


class PastStates:
    """The states of a run. One is kept after each page of facts that was folded, so that the next is folded from the nearest."""

    def __init__(self, log: Log, run: RunId, page: int) -> None:
        self._log, self._run, self._page = log, run, page
        self._kept: list[tuple[Position | None, RunState]] = [(None, RunState(run))]
        self._epoch_position: Position | None = None
        self._epoch = 0

    @property
    def end(self) -> int:
        """The last moment of the run that is on disk."""
        newest = self._log.last()
        return newest[0].moment if newest else 0

    def at(self, moment: int | None, epoch: int | None) -> RunState:
        """The state at `moment`, or when `epoch` was over. Raises RuleError where the run has not got there, naming how far it goes."""
        if (moment is None) == (epoch is None):
            raise RuleError("expected either a moment or an epoch")
        self.require_reached(moment, epoch)
        if moment is not None:
            after = bisect_right(self._kept, moment, key=lambda kept: kept[1].moment)
        else:
            # The last of an *earlier* epoch: one of the same epoch may stand after the rest of it only by luck.
            after = bisect_left(self._kept, epoch or 0, key=lambda kept: kept[1].epoch)
        position, state = self._kept[max(0, after - 1)]
        for page in pages_of(self._log, position, FACTS, self._page):
            for record in page.records:
                if is_beyond(record, moment, epoch):
                    return state
                state = step(state, record)
            if len(page.records) == self._page and state.moment > self._kept[-1][1].moment:
                self._kept.append((page.position, state))
        return state

    def require_reached(self, moment: int | None, epoch: int | None) -> None:
        """Raises RuleError where the run has not got to that moment, or that epoch is not over."""
        if moment is not None and not 0 <= moment <= (last := self.end):
            raise RuleError(f"run {self._run}: expected a moment from 0 to {last}, the last on disk, got {moment}")
        if epoch is not None and not 0 <= epoch <= (last := self._last_epoch()):
            raise RuleError(f"run {self._run}: expected an epoch from 0 to {last}, the last that is over, got {epoch}")

    def _last_epoch(self) -> int:
        """The last epoch that is over. No record is decoded: a run whose fold is blocked still has one."""
        for page in pages_of(self._log, self._epoch_position, _EPOCH_TOPICS, self._page):
            self._epoch = max(self._epoch, *(record.epoch for record in page.records if record.type in EPOCH_ENDS), 0)
            self._epoch_position = page.position
        return self._epoch


def is_beyond(record: Record, moment: int | None, epoch: int | None) -> bool:
    """True for a record after that moment, or of a later epoch."""
    return (moment is not None and record.moment > moment) or (epoch is not None and record.epoch > epoch)
