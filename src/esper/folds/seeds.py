"""The seed table of a run: a slot per place where a seed may live, and what the log has of its present life.

The log is taken at its word: a transition that does not start from the slot's stage, or whose edge the lifecycle table does not know, is
applied and described, never refused. The gate refuses, before anything is written; a check judges a log.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from esper.events.envelope import Record
from esper.events.fields import Event
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.lifecycle import SeedEvaluated, SeedRow, SeedTransitioned, Stage
from esper.events.kinds.run import RunRolledBack, Site
from esper.folds.control_state import Irregular, LastCommand
from esper.folds.sorted_map import SortedMap
from esper.folds.transitions import is_edge

SeedKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot of the seed table: its row, and the last command that was issued for it."""

    row: SeedRow
    command: LastCommand | None = None


Slots = SortedMap[SeedKey, Slot]


def slots_of(sites: Iterable[Site]) -> Slots:
    """All slots of all sites, DORMANT."""
    return SortedMap(((site.name, seed), Slot(SeedRow(site=site.name, seed=seed))) for site in sites for seed in range(site.slots))


def change_slots(slots: Slots, record: Record, event: Event, *, blamed: bool) -> tuple[Slots, Irregular]:
    """The table after `event`; itself where the event is not about seeds.

    `blamed`: the cause of a SeedTransitioned is a rollback that blames this very seed.
    """
    match event:
        case EpochCompleted():
            return _completed(slots, event.system.seeds)
        case SeedTransitioned():
            return _transitioned(slots, record, event, blamed)
        case SeedEvaluated():
            return _evaluated(slots, record, event)
        case RunRolledBack():
            return _rolled_back(slots, event.seeds)
        case _:
            return slots, ()


def with_command(slots: Slots, key: SeedKey, command: LastCommand) -> tuple[Slots, Irregular]:
    """The table with `command` as the slot's last one."""
    slot = slots.get(key)
    if slot is None:
        return slots, (f"a command is for {_named(key)}, which is no slot of this run",)
    return slots.with_item(key, replace(slot, command=command)), ()


def _transitioned(slots: Slots, record: Record, event: SeedTransitioned, blamed: bool) -> tuple[Slots, Irregular]:
    key = (event.site, event.seed)
    empty = SeedRow(site=event.site, seed=event.seed)
    slot = slots.get(key)
    irregular = []
    if slot is None:
        irregular.append(f"{_named(key)} is no slot of this run")
        slot = Slot(empty)
    if event.from_stage is not slot.row.stage:
        irregular.append(f"{_named(key)} was in {slot.row.stage}, its transition says from {event.from_stage}")
    if not (blamed if event.to_stage is Stage.ROLLED_BACK else is_edge(event.from_stage, event.to_stage)):
        irregular.append(f"no edge leads {_named(key)} from {event.from_stage} to {event.to_stage}")
    known = slot.row if slot.row.life == event.life else empty
    moved = event.model_dump(include={"life", "blueprint", "kernel", "embargo_until"})
    row = known.model_copy(update=moved | {"stage": event.to_stage, "since_epoch": record.epoch, "ready": None})
    return slots.with_item(key, replace(slot, row=row)), tuple(irregular)


def _rolled_back(slots: Slots, rows: Iterable[SeedRow]) -> tuple[Slots, Irregular]:
    """The table that a rollback put in force: `rows`, and nothing else; a life keeps its last evaluation."""
    table: Slots = SortedMap(((row.site, row.seed), _restored(slots.get((row.site, row.seed), Slot(row)), row)) for row in rows)
    irregular = [f"the rollback's seed table misses {_named(key)}" for key in slots if key not in table]
    irregular += [f"{_named(key)} of the rollback's seed table is no slot of this run" for key in table if key not in slots]
    return table, tuple(irregular)


def _evaluated(slots: Slots, record: Record, event: SeedEvaluated) -> tuple[Slots, Irregular]:
    """The table with `event` as the last evaluation of its life; one of another life than the present one is described and left out."""
    key = (event.site, event.seed)
    slot = slots.get(key)
    if slot is None or slot.row.life != event.life:
        present = "none" if slot is None else f"life {slot.row.life}"
        return slots, (f"life {event.life} of {_named(key)} was evaluated, the present one is {present}",)
    row = slot.row.model_copy(update={"evaluation": event.evaluation, "evaluated": record.id})
    return slots.with_item(key, replace(slot, row=row)), ()


def _completed(slots: Slots, rows: Iterable[SeedRow]) -> tuple[Slots, Irregular]:
    """The table with the rows of an EpochCompleted; one whose stage or life is not the table's own is described and left out."""
    table, irregular = dict(slots), []
    for row in rows:
        key = (row.site, row.seed)
        slot = slots.get(key)
        if slot is None:
            irregular.append(f"EpochCompleted knows {_named(key)}, which is no slot of this run")
        elif (slot.row.stage, slot.row.life) != (row.stage, row.life):
            has = f"EpochCompleted has {_named(key)} in {row.stage}, life {row.life}"
            irregular.append(f"{has}; the log says {slot.row.stage}, life {slot.row.life}")
        else:
            table[key] = replace(slot, row=row)
    return SortedMap(table.items()), tuple(irregular)


def _restored(slot: Slot, row: SeedRow) -> Slot:
    if slot.row.life == row.life and row.evaluation is None:
        row = row.model_copy(update={"evaluation": slot.row.evaluation, "evaluated": slot.row.evaluated})
    return replace(slot, row=row)


def _named(key: SeedKey) -> str:
    return f"seed {key[1]} of site {key[0]!r}"
