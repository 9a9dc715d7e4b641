"""A plausible run, written through the real emitter by the real gate and lifecycle, with made-up numbers and no torch.

Fourteen epochs over two sites: a refusal for low urgency and one by the cap, a germination and a race of three, a load that fails and is
tried again, a graft, a cancelled and a culled candidate, a fossilised seed, a kernel that does not compile, dropped samples, a step whose
loss is NaN, and the rollback that follows: it takes one life back altogether and blames the grafted seed. What is decided is scripted
(`script`); whether it passes is the gate's. Readers, folds, checks and views are tested against it.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from esper.events.envelope import RunId
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.synthetic.script import BEGAN, CAPACITY, EPOCHS, FIRST, ROLLBACK_EPOCH, RUN, SECOND, STEPS, started
from tests.synthetic.trainer import Trainer

__all__ = ["BEGAN", "EPOCHS", "FIRST", "ROLLBACK_EPOCH", "RUN", "SECOND", "STEPS", "started", "ticking", "write_run"]


def ticking(start: datetime = BEGAN, tick: timedelta = timedelta(milliseconds=25)) -> Callable[[], datetime]:
    """A clock that goes on by `tick` each time it is read."""
    now = start

    def read() -> datetime:
        nonlocal now
        now += tick
        return now

    return read


def write_run(
    directory: Directory,
    *,
    run: RunId = RUN,
    clock: Callable[[], datetime] | None = None,
    telemetry: bool = True,
    until_epoch: int = EPOCHS,
    finish: bool = True,
    planned: int = EPOCHS,
    task: str = "digits",
) -> RunId:
    """Writes the run (or its first `until_epoch` epochs) into `directory` and returns its id; `finish` ends and seals it.

    `planned` is how many epochs the run says it will have, `task` what it says it trains.
    """
    log = directory.create(run)
    emitter = Emitter(log, run, clock=clock or ticking(), capacity=CAPACITY)
    trainer = Trainer(emitter, telemetry=telemetry, planned=planned)
    trainer.start(task)
    for epoch in range(1, until_epoch + 1):
        trainer.train(epoch)
    if finish:
        trainer.finish()
    emitter.close(seal=finish)
    log.close()
    return run
