"""The end of a run's log: a StreamEnded in every topic, then RunFailed where the run failed."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal

from esper.events import topics
from esper.events.fields import Event
from esper.events.kinds.run import RunFailed, StreamEnded
from esper.oona.appender import Item, append_items
from esper.oona.catch_up import CatchUp
from esper.oona.contract import RunWriter
from esper.oona.heads import Heads

FailureKind = Literal["error", "diverged", "rollbacks", "log"]


def stream_ends(heads: Heads, *, stopped: bool = False) -> Iterator[tuple[str, tuple[int, int], StreamEnded]]:
    """The missing StreamEnded of each topic in use, with the epoch and step of the topic's last record.

    The run's own topic ends with RunFinished or RunFailed; only where the run is `stopped` it has a StreamEnded, the last of them. The
    epoch and step that training has reached are not used: records of earlier steps may follow when the run is resumed.
    """
    for name, head in sorted(heads.topics.items(), key=lambda item: (item[0] == topics.RUN, item[0])):
        if not head.ended and (stopped or name != topics.RUN):
            yield name, (head.epoch, head.step), StreamEnded(last_step=head.step)


def record_failure(
    log: RunWriter,
    clock: Callable[[], datetime],
    catch_up: CatchUp | None,
    kind: FailureKind,
    error: str,
    *,
    where: str,
    epoch: int,
    step: int,
) -> None:
    """Appends the end of every stream and RunFailed to `log`, on the calling thread: no writer thread may be running.

    An execution that failed while it caught up stands behind the log's end; what it says of the run stands at that end.
    """
    end = log.heads()
    here = {"epoch": max(epoch, end.epoch), "step": max(step, end.step)}
    if catch_up is not None:
        resumed = catch_up.resumed(log.heads().incarnation + 1)
        _say(log, clock, topics.RUN, resumed, incarnation=resumed.incarnation, **here)
    incarnation = log.heads().incarnation
    for name, (reached, last_step), ended in stream_ends(log.heads()):
        _say(log, clock, name, ended, incarnation=incarnation, epoch=reached, step=last_step)
    failed = RunFailed(kind=kind, error=error, where=where, tails=log.heads().tails())
    _say(log, clock, topics.RUN, failed, incarnation=incarnation, **here)


def _say(log: RunWriter, clock: Callable[[], datetime], topic: str, event: Event, *, incarnation: int, epoch: int, step: int) -> None:
    heads = log.heads()
    clocks = heads.advanced_to(topic, epoch=epoch, step=step)
    append_items(log, [Item(event, topic, heads.moment + 1, incarnation, clock(), *clocks, heads.anchor, None)])
