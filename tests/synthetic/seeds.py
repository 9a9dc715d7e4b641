"""The seed table of the made-up trainer: what is decided about a seed, ordered, and what becomes of its row."""

from esper.events.envelope import EventId
from esper.events.kinds.control import Command, CommandIssued, DecisionMade
from esper.events.kinds.lifecycle import SeedRow, SeedTransitioned, Stage
from esper.folds.transitions import next_stage
from tests.synthetic.memory import Memory
from tests.synthetic.numbers import blueprint_key
from tests.synthetic.script import GATE, Slot, Wish


def decision(memory: Memory, wish: Wish, completed: EventId) -> DecisionMade:
    """`wish` as the policy would say it, with what it rests on."""
    slot = (wish.site or "", wish.seed or 0)
    fresh = slot in memory.evaluations and memory.evaluations[slot][1].epoch == memory.epoch
    return DecisionMade(
        adaptation=wish.adaptation,
        site=wish.site,
        seed=wish.seed,
        blueprint=wish.blueprint or (memory.seeds[slot].blueprint if wish.site else None),
        confidence=wish.confidence,
        urgency=wish.urgency,
        reason=wish.reason,
        evidence=(completed, memory.evaluations[slot][0]) if fresh else (completed,),
    )


def order(memory: Memory, command: Command, wish: Wish) -> CommandIssued:
    """`command` to the seed of `wish`."""
    assert wish.site is not None
    assert wish.seed is not None
    row = memory.seeds[wish.site, wish.seed]
    blueprint = wish.blueprint or row.blueprint
    return CommandIssued(
        command=command,
        site=wish.site,
        seed=wish.seed,
        blueprint=blueprint,
        kernel=blueprint_key(blueprint, wish.site)[:16] if blueprint and (wish.site, wish.seed) in memory.kernels else row.kernel,
        expires_epoch=memory.epoch,
    )


def moved(memory: Memory, row: SeedRow, issued: CommandIssued) -> SeedRow:
    """`row` after the command was applied; what its life left behind is forgotten."""
    stage = next_stage(row.stage, issued.command)
    slot = (row.site, row.seed)
    if issued.command is Command.GERMINATE:
        memory.germinated.append(memory.epoch)
        return replaced(empty(slot, stage, memory.epoch), life=memory.epoch, blueprint=issued.blueprint)
    if issued.command is Command.RESET:
        memory.evaluations.pop(slot, None)
        memory.kernels.discard(slot)
        return empty(slot, stage, memory.epoch)
    embargo = memory.epoch + GATE.embargo if stage is Stage.CULLED else None
    return replaced(row, stage=stage, since_epoch=memory.epoch, kernel=issued.kernel or row.kernel, embargo_until=embargo)


def replaced(row: SeedRow, **changes: object) -> SeedRow:
    """`row` with some fields changed."""
    return row.model_copy(update=changes)


def empty(slot: Slot, stage: Stage, epoch: int) -> SeedRow:
    """A slot without a life."""
    return SeedRow(site=slot[0], seed=slot[1], stage=stage, since_epoch=epoch)


def transition(before: SeedRow, row: SeedRow, reason: str) -> SeedTransitioned:
    """The way from `before` to `row`."""
    return SeedTransitioned(
        site=row.site,
        seed=row.seed,
        from_stage=before.stage,
        to_stage=row.stage,
        reason=reason,
        life=row.life,
        blueprint=row.blueprint,
        kernel=row.kernel,
        embargo_until=row.embargo_until,
    )
