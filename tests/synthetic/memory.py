"""What the made-up trainer remembers from one epoch to the next."""

from collections import Counter
from dataclasses import dataclass, field

from esper.events.envelope import EventId
from esper.events.kinds.control import FieldReported
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.folds.transitions import IN_TASK_GRAPH
from tests.synthetic.script import Slot


@dataclass
class Memory:
    """`saved` is the seed table of the newest checkpoint; `evaluations` come with the event's id; `tallies` count by what and site."""

    planned: int
    epoch: int = 0
    step: int = 0
    seeds: dict[Slot, SeedRow] = field(default_factory=dict)
    saved: dict[Slot, SeedRow] = field(default_factory=dict)
    evaluations: dict[Slot, tuple[EventId, Evaluation]] = field(default_factory=dict)
    reports: list[FieldReported] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    kernels: set[Slot] = field(default_factory=set)
    germinated: list[int] = field(default_factory=list)
    tallies: Counter[tuple[str, str]] = field(default_factory=Counter)
    last_adaptation: int | None = None

    def parameters(self) -> int:
        """Of the host and the seeds in the task graph."""
        return 460 + 570 * sum(row.stage in IN_TASK_GRAPH for row in self.seeds.values())

    def alpha(self, row: SeedRow) -> float | None:
        """How much of the seed is in the output."""
        if row.stage is Stage.GRAFTING:
            return round((self.epoch - row.since_epoch) / 3, 4)
        return 1.0 if row.stage in IN_TASK_GRAPH else None

    def ready(self, row: SeedRow) -> bool | None:
        """True once the seed's stage has done its work."""
        match row.stage:
            case Stage.DORMANT:
                return None
            case Stage.GERMINATED:
                return (row.site, row.seed) in self.kernels
            case Stage.CULLED:
                return row.embargo_until is None or self.epoch >= row.embargo_until
            case Stage.FOSSILIZED | Stage.ROLLED_BACK | Stage.FINE_TUNING:
                return False
            case Stage.TRAINING | Stage.GRAFTING:
                return self.epoch - row.since_epoch >= 2
            case _:
                return True
