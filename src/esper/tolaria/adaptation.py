"""The adaptation at an epoch's end: kernels, decisions, the gate, commands and their outcomes. The only way back into training.

Write ahead: every command of an epoch is on disk before the first takes effect, every outcome before the next epoch begins.
"""

import hashlib
from typing import NamedTuple

from esper.errors import DataError, RuleError
from esper.events import codec
from esper.events.envelope import EventId
from esper.events.kinds.control import Command, CommandApplied, CommandFailed, CommandIssued, CommandRefused, DecisionMade, DecisionRefused
from esper.events.kinds.epoch import SystemState
from esper.events.kinds.kernels import BlueprintSubmitted, KernelCompiled, KernelCompileFailed
from esper.events.kinds.lifecycle import Stage
from esper.folds.gate import Refused, after, judge, view_at
from esper.folds.seeds import SeedKey
from esper.folds.transitions import next_stage
from esper.kasmina.compiler import Kernel, KernelError, KernelRequest
from esper.tolaria.training import Training

# How long an epoch's end waits for a kernel, which takes milliseconds, before it counts as failed.
_COMPILE_WAIT_S = 60.0

_OF_COMMAND = {"command", "site", "seed"}
_ENDS = frozenset({Stage.FOSSILIZED, Stage.CULLED, Stage.CANCELLED})
# The kinds between an EpochCompleted and the last command that follows from it; any other ends the epoch's decisions.
_DECIDING = frozenset({DecisionMade.KIND, DecisionRefused.KIND, CommandIssued.KIND})


class _IssuedCommand(NamedTuple):
    """An issued command with its record id, its decision's trace and reason."""

    id: EventId
    trace: str
    command: CommandIssued
    reason: str


def submit_waiting(training: Training) -> None:
    """Submit the blueprint of every seed that waits for its kernel to the compiler; after a restore none is under way."""
    for place, seed in training.host.seeds.items():
        if seed.stage is Stage.GERMINATED and not training.progress.note(*place).kernel_failed:
            training.compiler.submit(_order_of(training, place))


def collect_kernels(training: Training) -> None:
    """Wait for every kernel under way and record its outcome. The wait decides nothing: timing never enters training."""
    for place, seed in sorted(training.host.seeds.items()):
        note = training.progress.note(*place)
        if seed.stage is Stage.GERMINATED and note.kernel is None and not note.kernel_failed:
            _collect(training, place)


def _collect(training: Training, place: SeedKey) -> None:
    site, slot = place
    order, life = _order_of(training, place), training.host.seeds[place].life
    assert life is not None
    try:
        kernel = _kernel_of(training, order)
    except DataError as error:
        training.progress = training.progress.noted(*place, kernel_failed=True)
        training.counters = training.counters.counted("failed", site)
        training.emit(KernelCompileFailed(key=order.key, site=site, seed=slot, life=life, error=str(error)))
        return
    training.progress = training.progress.noted(*place, kernel=kernel.digest)
    compiled = KernelCompiled(
        key=order.key,
        kernel=kernel.digest,
        site=site,
        seed=slot,
        life=life,
        duration_ms=kernel.duration_ms,
        from_cache=kernel.from_cache,
    )
    cause = training.emit(compiled)
    training.emit(kernel.characterization, cause=cause)


def _kernel_of(training: Training, order: KernelRequest) -> Kernel:
    """The kernel of `order`. Raises DataError where it could not be made, now or in the log that is caught up with.

    A failure may have been the machine's (a full disk, a timeout): what followed from it stands, even if it would succeed today.
    """
    for record in training.sink.pending_facts[:1]:
        failed = codec.decode(record)
        if isinstance(failed, KernelCompileFailed) and failed.key == order.key:
            raise KernelError(failed.error)
    return training.compiler.wait(order.key, timeout_s=_COMPILE_WAIT_S)


def _order_of(training: Training, place: SeedKey) -> KernelRequest:
    order = training.host.seeds[place].request
    assert order is not None, "a germinated seed waits for the kernel of its order"
    return order


def adapt(training: Training, state: SystemState, epoch_id: EventId, *, ramp_steps: int) -> frozenset[Command]:
    """Decide, gate, issue, apply. Returns which commands took effect; everything is on disk when it returns.

    `ramp_steps`: the steps in which the alpha of a seed that is grafted now rises to 1.
    """
    orders = _issue(training, _decisions(training, state, epoch_id), state, epoch_id)
    training.sink.commit()
    applied = frozenset(order.command.command for order in orders if _apply(training, order, ramp_steps))
    if orders:
        training.sink.commit()
    return applied


def _decisions(training: Training, state: SystemState, epoch_id: EventId) -> tuple[DecisionMade, ...]:
    """While catching up the logged decisions, never new ones; else the policy's.

    At the log's frontier an epoch's decisions may have been cut short by the interruption: the logged ones stand, and the
    policy's further ones follow only where it agrees with all of them.
    """
    logged, complete = _logged(training)
    if complete:
        return logged
    fresh = training.policy(state, epoch_id)
    # As bytes: a NaN is equal to itself in the log alone.
    agreed = [codec.encode(decision) for decision in fresh[: len(logged)]] == [codec.encode(decision) for decision in logged]
    return fresh if agreed else logged


def _logged(training: Training) -> tuple[tuple[DecisionMade, ...], bool]:
    """The logged decisions of this epoch, and whether the log holds all of them."""
    decisions: list[DecisionMade] = []
    for record in training.sink.pending_facts:
        if record.type not in _DECIDING:
            return tuple(decisions), True
        if record.type == DecisionMade.KIND:
            decisions.append(codec.decode_as(record, DecisionMade))
    return tuple(decisions), False


def _issue(training: Training, decisions: tuple[DecisionMade, ...], state: SystemState, epoch_id: EventId) -> list[_IssuedCommand]:
    earlier = (epoch for epoch in training.counters.germination_epochs if epoch < state.epoch)
    view = view_at(state, epoch_id, max(earlier, default=None))
    orders: list[_IssuedCommand] = []
    for decision in decisions:
        decision_id = training.emit(decision, cause=epoch_id)
        verdict = judge(decision, view, state.gate)
        view = after(view, decision, verdict, state.gate)
        if isinstance(verdict, Refused):
            if decision.site is not None:
                training.counters = training.counters.counted("refused", decision.site)
            refusal = DecisionRefused(rule=verdict.rule, reason=verdict.reason)
            training.emit(refusal, cause=decision_id, trace=_trace_of(decision_id))
        elif verdict is not None:
            orders.append(_order(training, decision, decision_id, verdict))
    return orders


def _order(training: Training, decision: DecisionMade, decision_id: EventId, command: Command) -> _IssuedCommand:
    assert decision.site is not None
    assert decision.seed is not None
    seed = training.host.seeds[decision.site, decision.seed]
    issued = CommandIssued(
        command=command,
        site=decision.site,
        seed=decision.seed,
        blueprint=decision.blueprint or seed.blueprint,
        kernel=training.progress.note(decision.site, decision.seed).kernel or seed.kernel,
        expires_epoch=training.counters.epoch,
    )
    trace = _trace_of(decision_id)
    return _IssuedCommand(training.emit(issued, cause=decision_id, trace=trace), trace, issued, decision.reason)


def _apply(training: Training, order: _IssuedCommand, ramp_steps: int) -> bool:
    command, place = order.command, (order.command.site, order.command.seed)
    same, from_stage = command.model_dump(include=_OF_COMMAND), training.host.seeds[place].stage
    try:
        next_stage(from_stage, command.command)
        _take_effect(training, command, place, ramp_steps)
    except RuleError as error:  # An earlier command of this epoch failed, so the seed is in another stage.
        training.emit(CommandRefused(**same, reason=str(error)), cause=order.id, trace=order.trace)
        training.counters = training.counters.counted("refused", command.site)
        return False
    except DataError as error:
        training.emit(CommandFailed(**same, error=str(error)), cause=order.id, trace=order.trace)
        training.counters = training.counters.counted("failed", command.site)
        if command.command is Command.LOAD:
            training.progress = training.progress.noted(*place, kernel=None, kernel_failed=True)
        return False
    _record_applied(training, order, place, from_stage)
    return True


def _take_effect(training: Training, command: CommandIssued, place: SeedKey, ramp_steps: int) -> None:
    host, epoch, kind = training.host, training.counters.epoch, command.command
    if kind is Command.GERMINATE:
        assert command.blueprint is not None
        training.compiler.submit(host.germinate(*place, life=epoch, blueprint=command.blueprint))
    elif kind is Command.LOAD:
        host.load(*place, training.compiler.wait(_order_of(training, place).key, timeout_s=_COMPILE_WAIT_S), epoch=epoch)
    else:
        embargo = epoch + training.gate.embargo if kind is Command.CULL else None
        host.apply(kind, *place, epoch=epoch, ramp_steps=ramp_steps, embargo_until=embargo)


def _record_applied(training: Training, order: _IssuedCommand, place: SeedKey, from_stage: Stage) -> None:
    command, trace = order.command, order.trace
    row = training.host.seeds[place].row
    applied = training.emit(CommandApplied(**command.model_dump(include=_OF_COMMAND)), cause=order.id, trace=trace)
    moved = training.emit_transition(row, from_stage, row.stage, order.reason, cause=applied, trace=trace)
    if command.command is Command.GERMINATE:
        assert command.blueprint is not None
        request, life = _order_of(training, place), training.counters.epoch
        submitted = BlueprintSubmitted(
            blueprint=command.blueprint, key=request.key, spec=request.spec, site=command.site, seed=command.seed, life=life
        )
        training.emit(submitted, cause=moved, trace=trace)
    if row.stage in _ENDS:
        training.emit_report(row, row.stage, training.progress.validation_loss, cause=moved, trace=trace)
    _remember(training, command.command, place, row.stage, applied)


def _remember(training: Training, command: Command, place: SeedKey, stage: Stage, applied: EventId) -> None:
    progress = training.progress.model_copy(update={"last_adaptation_step": training.counters.step, "last_adaptation": applied})
    loss = progress.validation_loss
    if command is Command.GERMINATE:
        training.counters = training.counters.germinated(training.counters.epoch)
        progress = progress.without_note(*place).noted(*place, loss_at_germination=loss)
    elif command is Command.GRAFT:
        progress = progress.noted(*place, loss_before_graft=loss).with_new_cycle()
    elif stage in (Stage.CULLED, Stage.CANCELLED, Stage.DORMANT):
        progress = progress.without_note(*place)
    # A plateau is found again after each cycle, whether a seed was grafted or none was worth it.
    training.progress = progress.with_new_cycle() if command is Command.CULL else progress


def _trace_of(decision: EventId) -> str:
    """The W3C trace context of one adaptation, made from the id of its decision."""
    digest = hashlib.sha256(decision.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"
