"""A run that has begun, what is written into it, and what its records fold to."""

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation
from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.events.kinds.run import BlamedSeed, CheckpointSaved, RunRolledBack
from esper.folds.run_state import RunState
from tests.folds.histories import Writer, completed, decision, fold, seed_row, started, transition


def begun(*slots: int) -> Writer:
    """A run that has started, with a site for each number of slots."""
    writer = Writer()
    writer.write(started(*(slots or (2,))))
    return writer


def state_of(writer: Writer) -> RunState:
    """What the records of `writer` fold to."""
    return fold(writer.records)


def oddities(writer: Writer) -> list[str]:
    """What the fold found that does not fit."""
    return [irregularity.what for irregularity in state_of(writer).irregularities]


def germinated(writer: Writer, seed: int = 0, epoch: int = 1) -> None:
    """A seed germinates at the end of `epoch`."""
    writer.epoch = epoch
    writer.write(transition(Stage.DORMANT, Stage.GERMINATED, seed=seed, life=epoch))


def saved(name: str) -> CheckpointSaved:
    """A checkpoint."""
    return CheckpointSaved(checkpoint=name, digest="cd" * 32, size_bytes=10, reason="due", duration_s=0.1)


def rolled_back(rows: tuple[SeedRow, ...], blamed: BlamedSeed | None) -> RunRolledBack:
    """A rollback from epoch 5 to epoch 2."""
    return RunRolledBack(from_epoch=5, to_epoch=2, checkpoint="epoch-2", reason="a loss of NaN", blamed=blamed, seeds=rows)


def asked(writer: Writer, adaptation: Adaptation = Adaptation.GERMINATE) -> EventId:
    """A decision at the end of epoch 1; its id."""
    writer.epoch = 1
    evidence = writer.write(completed(1, tuple(seed_row("layer0", seed, Stage.DORMANT) for seed in range(2))))
    return writer.write(decision(adaptation, evidence, confidence=0.8, urgency=0.65), evidence)
