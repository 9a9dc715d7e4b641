"""The seed table of a run: one slot per place where a seed may live, and what the log says of its present life.

The table takes the log's word: a transition that does not start from the slot's stage, or whose edge the lifecycle table does not know, is
made and described, never refused. Refusing is the gate's, before anything is written; judging a log is a check's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from esper.events.envelope import EventId, Record
from esper.events.kinds.control import Command
from esper.events.kinds.epoch import SeedColumns
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import Site
from esper.folds.lifecycle import is_edge
from esper.folds.table import Table

SeedKey = tuple[str, int]
Outcome = Literal["applied", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The last SeedEvaluated of a life, with its id and when it was measured."""

    id: EventId
    moment: int
    epoch: int
    event: SeedEvaluated


@dataclass(frozen=True, slots=True)
class LastCommand:
    """The last command issued for a slot. `outcome` is None until it has one; `why` is a refusal's reason or a failure's error."""

    moment: int
    epoch: int
    command: Command
    outcome: Outcome | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot: its row, and of its present life the alpha at the last EpochCompleted and the last evaluation."""

    row: SeedRow
    alpha: float | None = None
    evaluation: Evaluation | None = None
    command: LastCommand | None = None


Slots = Table[SeedKey, Slot]


class Change(NamedTuple):
    """A seed table after a record, and what was irregular about it, in words."""

    slots: Slots
    irregular: tuple[str, ...] = ()


def dormant(site: str, seed: int) -> SeedRow:
    """The row of a slot that was never used."""
    return SeedRow(
        site=site,
        seed=seed,
        stage=Stage.DORMANT,
        since_epoch=0,
        life=None,
        blueprint=None,
        kernel=None,
        embargo_until=None,
    )


def slots_of(sites: Iterable[Site]) -> Slots:
    """All slots of all sites, DORMANT."""
    return Table(((site.name, seed), Slot(dormant(site.name, seed))) for site in sites for seed in range(site.slots))


def transitioned(slots: Slots, record: Record, event: SeedTransitioned, rollback: bool) -> Change:
    """The table after `event`; `rollback`: the record says that a rollback which blames this very seed caused it."""
    key = (event.site, event.seed)
    slot = slots.get(key)
    irregular = []
    if slot is None:
        irregular.append(f"{_named(key)} is no slot of this run")
        slot = Slot(dormant(*key))
    if event.from_stage is not slot.row.stage:
        irregular.append(f"{_named(key)} was in {slot.row.stage}, its transition says from {event.from_stage}")
    if not (rollback if event.to_stage is Stage.ROLLED_BACK else is_edge(event.from_stage, event.to_stage)):
        irregular.append(f"no edge leads {_named(key)} from {event.from_stage} to {event.to_stage}")
    row = SeedRow(
        site=event.site,
        seed=event.seed,
        stage=event.to_stage,
        since_epoch=record.epoch,
        life=event.life,
        blueprint=event.blueprint,
        kernel=event.kernel,
        embargo_until=event.embargo_until,
    )
    return Change(slots.with_item(key, _succeeded(slot, row)), tuple(irregular))


def replaced(slots: Slots, rows: Iterable[SeedRow]) -> Change:
    """The table that a rollback put in force: `rows`, and nothing else. Alphas are unknown until the next EpochCompleted."""
    table: Slots = Table(
        ((row.site, row.seed), replace(_succeeded(slots.get((row.site, row.seed), Slot(row)), row), alpha=None)) for row in rows
    )
    irregular = [f"the rollback's seed table misses {_named(key)}" for key in slots if key not in table]
    irregular += [f"{_named(key)} of the rollback's seed table is no slot of this run" for key in table if key not in slots]
    return Change(table, tuple(irregular))


def evaluated(slots: Slots, record: Record, event: SeedEvaluated) -> Change:
    """The table with `event` as the last evaluation of its life; one of another life than the present one is described and left out."""
    key = (event.site, event.seed)
    slot = slots.get(key)
    if slot is None or slot.row.life != event.life:
        present = "none" if slot is None else f"life {slot.row.life}"
        return Change(slots, (f"life {event.life} of {_named(key)} was evaluated, the present one is {present}",))
    evaluation = Evaluation(record.id, record.moment, record.epoch, event)
    return Change(slots.with_item(key, replace(slot, evaluation=evaluation)))


def commanded(slots: Slots, key: SeedKey, command: LastCommand) -> Change:
    """The table with `command` as the slot's last one."""
    slot = slots.get(key)
    if slot is None:
        return Change(slots, (f"a command is for {_named(key)}, which is no slot of this run",))
    return Change(slots.with_item(key, replace(slot, command=command)))


def observed(slots: Slots, columns: SeedColumns) -> Change:
    """The table with the alphas of an EpochCompleted, and where its stages and lives are not the table's own."""
    alphas = dict(zip(zip(columns.site, columns.seed, strict=True), columns.alpha, strict=True))
    table = Table((key, slot if slot.alpha == alphas.get(key) else replace(slot, alpha=alphas.get(key))) for key, slot in slots.items())
    return Change(table, tuple(_disagreements(slots, columns)))


def _disagreements(slots: Mapping[SeedKey, Slot], columns: SeedColumns) -> Iterable[str]:
    for site, seed, stage, life in zip(columns.site, columns.seed, columns.stage, columns.life, strict=True):
        slot = slots.get((site, seed))
        if slot is None:
            yield f"EpochCompleted knows {_named((site, seed))}, which is no slot of this run"
        elif (slot.row.stage, slot.row.life) != (stage, life):
            yield f"EpochCompleted has {_named((site, seed))} in {stage}, life {life}; the log says {slot.row.stage}, life {slot.row.life}"


def _succeeded(slot: Slot, row: SeedRow) -> Slot:
    """The slot with `row` as its row; what was measured of another life goes."""
    if slot.row.life == row.life:
        return replace(slot, row=row)
    return replace(slot, row=row, alpha=None, evaluation=None)


def _named(key: SeedKey) -> str:
    return f"seed {key[1]} of site {key[0]!r}"
