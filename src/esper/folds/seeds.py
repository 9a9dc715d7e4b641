"""The seed table of a run: one slot per place where a seed may live, and what the log says of its present life.

The table takes the log's word: a transition that does not start from the slot's stage, or whose edge the lifecycle table does not know, is
made and described, never refused. Refusing is the gate's, before anything is written; judging a log is a check's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from esper.events.envelope import Record
from esper.events.kinds.control import Command
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import Site
from esper.folds.lifecycle import is_edge
from esper.folds.table import Table

SeedKey = tuple[str, int]
Outcome = Literal["applied", "refused", "failed"]


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
    """A slot of the seed table: its row, and the last command that was issued for it."""

    row: SeedRow
    command: LastCommand | None = None


Slots = Table[SeedKey, Slot]


class Change(NamedTuple):
    """A seed table after a record, and what was irregular about it, in words."""

    slots: Slots
    irregular: tuple[str, ...] = ()


def slots_of(sites: Iterable[Site]) -> Slots:
    """All slots of all sites, DORMANT."""
    return Table(((site.name, seed), Slot(SeedRow(site=site.name, seed=seed))) for site in sites for seed in range(site.slots))


def transitioned(slots: Slots, record: Record, event: SeedTransitioned, rollback: bool) -> Change:
    """The table after `event`; `rollback`: the record says that a rollback which blames this very seed caused it."""
    key = (event.site, event.seed)
    slot = slots.get(key)
    irregular = []
    if slot is None:
        irregular.append(f"{_named(key)} is no slot of this run")
        slot = Slot(SeedRow(site=event.site, seed=event.seed))
    if event.from_stage is not slot.row.stage:
        irregular.append(f"{_named(key)} was in {slot.row.stage}, its transition says from {event.from_stage}")
    if not (rollback if event.to_stage is Stage.ROLLED_BACK else is_edge(event.from_stage, event.to_stage)):
        irregular.append(f"no edge leads {_named(key)} from {event.from_stage} to {event.to_stage}")
    known = slot.row if slot.row.life == event.life else SeedRow(site=event.site, seed=event.seed)
    moved = event.model_dump(include={"life", "blueprint", "kernel", "embargo_until"})
    row = known.model_copy(update=moved | {"stage": event.to_stage, "since_epoch": record.epoch, "ready": None})
    return Change(slots.with_item(key, replace(slot, row=row)), tuple(irregular))


def replaced(slots: Slots, rows: Iterable[SeedRow]) -> Change:
    """The table that a rollback put in force: `rows`, and nothing else; a life keeps its last evaluation."""
    table: Slots = Table(((row.site, row.seed), _replaced(slots.get((row.site, row.seed), Slot(row)), row)) for row in rows)
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
    row = slot.row.model_copy(update={"evaluation": event.evaluation, "evaluated": record.id})
    return Change(slots.with_item(key, replace(slot, row=row)))


def commanded(slots: Slots, key: SeedKey, command: LastCommand) -> Change:
    """The table with `command` as the slot's last one."""
    slot = slots.get(key)
    if slot is None:
        return Change(slots, (f"a command is for {_named(key)}, which is no slot of this run",))
    return Change(slots.with_item(key, replace(slot, command=command)))


def observed(slots: Slots, rows: Iterable[SeedRow]) -> Change:
    """The table with the rows of an EpochCompleted; one whose stage or life is not the table's own is described and left out."""
    table, irregular = dict(slots), []
    for row in rows:
        key = (row.site, row.seed)
        slot = slots.get(key)
        if slot is None:
            irregular.append(f"EpochCompleted knows {_named(key)}, which is no slot of this run")
        elif (slot.row.stage, slot.row.life) != (row.stage, row.life):
            irregular.append(
                f"EpochCompleted has {_named(key)} in {row.stage}, life {row.life}; the log says {slot.row.stage}, life {slot.row.life}"
            )
        elif row != slot.row:
            table[key] = replace(slot, row=row)
    return Change(Table(table.items()), tuple(irregular))


def _replaced(slot: Slot, row: SeedRow) -> Slot:
    if slot.row.life == row.life and row.evaluation is None:
        row = row.model_copy(update={"evaluation": slot.row.evaluation, "evaluated": slot.row.evaluated})
    return replace(slot, row=row)


def _named(key: SeedKey) -> str:
    return f"seed {key[1]} of site {key[0]!r}"
