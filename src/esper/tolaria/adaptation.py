"""An epoch's end: kernels that came ready, decisions, the gate, commands, and what became of each. The only way back into training.

Write ahead: every command of an epoch is on disk before the first takes effect, every outcome before the next epoch begins.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from esper.errors import DataError, RuleError
from esper.events import codec
from esper.events.envelope import EventId
from esper.events.kinds.control import (
    Command,
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
    FieldReported,
)
from esper.events.kinds.epoch import SystemState
from esper.events.kinds.kernels import BlueprintSubmitted, KernelCompiled, KernelCompileFailed
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.folds.gate import Passed, Refused, after, judge, view_at
from esper.folds.transitions import next_stage
from esper.kasmina.compiler import Kernel, KernelCompiler, KernelError, KernelRequest
from esper.kasmina.host import Host
from esper.kasmina.slots import Slot
from esper.tolaria.event_sink import EventSink
from esper.tolaria.settings import Schedule
from esper.tolaria.trainer_state import Place, TrainerState

# How long an epoch's end waits for a kernel, which takes milliseconds, before it counts as failed.
_COMPILE_WAIT_S = 60.0

Policy = Callable[[SystemState, EventId], tuple[DecisionMade, ...]]

_ENDS: dict[Stage, str] = {Stage.FOSSILIZED: "FOSSILIZED", Stage.CULLED: "CULLED", Stage.CANCELLED: "CANCELLED"}
# All that is said between an EpochCompleted and the last command that follows from it; whatever else comes, the deciding is over.
_DECIDING = frozenset({DecisionMade.KIND, DecisionRefused.KIND, CommandIssued.KIND})


@dataclass(frozen=True)
class _IssuedCommand:
    """An issued command with its record id, its decision's trace and reason."""

    id: EventId
    trace: str
    command: CommandIssued
    reason: str


@dataclass(frozen=True)
class EpochEnd:
    """Clocks at an epoch's end, the epochs left, the validation loss just measured, and the steps of a graft."""

    epoch: int
    step: int
    epochs_left: int
    validation_loss: float | None
    ramp_steps: int


class AdaptationStep:
    """Turns an epoch's SystemState into applied commands, each step of it in the sink."""

    def __init__(
        self,
        *,
        host: Host,
        sink: EventSink,
        policy: Policy,
        schedule: Schedule,
        embargo: int,
        compiler: KernelCompiler,
        trainer_state: TrainerState,
    ) -> None:
        self._host, self._sink, self._policy, self._schedule, self._embargo = host, sink, policy, schedule, embargo
        self._compiler, self._trainer_state = compiler, trainer_state

    # Kernels

    def submit_waiting(self) -> None:
        """Sends the blueprint of every seed that waits for its kernel to the compiler; after a restore none is under way."""
        for place, seed in self._host.seeds.items():
            if seed.stage is Stage.GERMINATED and not self._trainer_state.progress.note(*place).kernel_failed:
                self._compiler.submit(self._order_of(place))

    def collect_kernels(self, end: EpochEnd) -> None:
        """Waits for every kernel under way and says what became of it. The wait decides nothing: timing never enters training."""
        for place, seed in sorted(self._host.seeds.items()):
            note = self._trainer_state.progress.note(*place)
            if seed.stage is Stage.GERMINATED and note.kernel is None and not note.kernel_failed:
                self._collect(place, end)

    def _collect(self, place: Place, end: EpochEnd) -> None:
        site, slot = place
        order, life = self._order_of(place), self._host.seeds[place].life
        assert life is not None
        try:
            kernel = self._kernel_of(order)
        except DataError as error:
            self._trainer_state.progress = self._trainer_state.progress.noted(*place, kernel_failed=True)
            self._trainer_state.counters = self._trainer_state.counters.counted("failed", site)
            failure = KernelCompileFailed(key=order.key, site=site, seed=slot, life=life, error=str(error))
            self._sink.emit(failure, epoch=end.epoch, step=end.step)
            return
        self._trainer_state.progress = self._trainer_state.progress.noted(*place, kernel=kernel.digest)
        compiled = KernelCompiled(
            key=order.key,
            kernel=kernel.digest,
            site=site,
            seed=slot,
            life=life,
            duration_ms=kernel.duration_ms,
            from_cache=kernel.from_cache,
        )
        cause = self._sink.emit(compiled, epoch=end.epoch, step=end.step)
        self._sink.emit(kernel.characterization, epoch=end.epoch, step=end.step, cause=cause)

    def _kernel_of(self, order: KernelRequest) -> Kernel:
        """The kernel of `order`. Raises DataError where it could not be made, end or as the log that is caught up with says.

        A failure may have been the machine's (a full disk, a timeout): what followed from it stands, even if it would succeed today.
        """
        for record in self._sink.upcoming[:1]:
            failed = codec.decode(record)
            if isinstance(failed, KernelCompileFailed) and failed.key == order.key:
                raise KernelError(failed.error)
        return self._compiler.wait(order.key, timeout_s=_COMPILE_WAIT_S)

    def _order_of(self, place: Place) -> KernelRequest:
        order = self._host.seeds[place].request
        assert order is not None, "a germinated seed waits for the kernel of its order"
        return order

    # Decisions

    def adapt(self, state: SystemState, epoch_id: EventId, end: EpochEnd) -> frozenset[Command]:
        """Decides, gates, issues, applies. Returns which commands took effect; everything is on disk when it returns."""
        orders = self._issue(self._decisions(state, epoch_id), state, epoch_id, end)
        self._sink.commit()
        applied = frozenset(order.command.command for order in orders if self._apply(order, end))
        if orders:
            self._sink.commit()
        return applied

    def _decisions(self, state: SystemState, epoch_id: EventId) -> tuple[DecisionMade, ...]:
        """While catching up the logged decisions, never new ones; else the policy's.

        At the log's frontier an epoch's decisions may have been cut short by the interruption: the logged ones stand, and the
        policy's further ones follow only where it agrees with all of them.
        """
        logged, complete = self._logged()
        if complete:
            return logged
        fresh = self._policy(state, epoch_id)
        # As bytes: a NaN is equal to itself in the log alone.
        agreed = [codec.encode(decision) for decision in fresh[: len(logged)]] == [codec.encode(decision) for decision in logged]
        return fresh if agreed else logged

    def _logged(self) -> tuple[tuple[DecisionMade, ...], bool]:
        decisions: list[DecisionMade] = []
        for record in self._sink.upcoming:
            if record.type not in _DECIDING:
                return tuple(decisions), True
            if record.type == DecisionMade.KIND:
                event = codec.decode_as(record, DecisionMade)
                decisions.append(event)
        return tuple(decisions), False

    def _issue(self, decisions: tuple[DecisionMade, ...], state: SystemState, epoch_id: EventId, end: EpochEnd) -> list[_IssuedCommand]:
        earlier = (epoch for epoch in self._trainer_state.counters.germination_epochs if epoch < end.epoch)
        view = view_at(state, epoch_id, max(earlier, default=None))
        orders: list[_IssuedCommand] = []
        for decision in decisions:
            decision_id = self._sink.emit(decision, epoch=end.epoch, step=end.step, cause=epoch_id)
            verdict = judge(decision, view, state.gate)
            view = after(view, decision, verdict, state.gate)
            if isinstance(verdict, Refused):
                self._refuse(decision, decision_id, verdict, end)
            elif isinstance(verdict, Passed):
                orders.append(self._order(decision, decision_id, verdict.command, end))
        return orders

    def _refuse(self, decision: DecisionMade, decision_id: EventId, verdict: Refused, end: EpochEnd) -> None:
        if decision.site is not None:
            self._trainer_state.counters = self._trainer_state.counters.counted("refused", decision.site)
        refusal = DecisionRefused(rule=verdict.rule, reason=verdict.reason)
        self._sink.emit(refusal, epoch=end.epoch, step=end.step, cause=decision_id, trace=trace_of(decision_id))

    def _order(self, decision: DecisionMade, decision_id: EventId, command: Command, end: EpochEnd) -> _IssuedCommand:
        trace = trace_of(decision_id)
        issued = self._command(decision, command, end)
        command_id = self._sink.emit(issued, epoch=end.epoch, step=end.step, cause=decision_id, trace=trace)
        return _IssuedCommand(command_id, trace, issued, decision.reason)

    def ready(self, epoch: int) -> frozenset[Place]:
        """The seeds that have finished what their stage is for, at the end of `epoch`."""
        return frozenset(place for place, seed in self._host.seeds.items() if self._is_ready(place, seed, epoch))

    def _is_ready(self, place: Place, seed: Slot, epoch: int) -> bool:
        if seed.stage is Stage.GERMINATED:
            return self._trainer_state.progress.note(*place).kernel is not None
        if seed.stage is Stage.CULLED:
            return seed.embargo_until is None or epoch >= seed.embargo_until
        planned = {Stage.CANCELLED: 0, Stage.TRAINING: self._schedule.train_epochs, Stage.GRAFTING: self._schedule.graft_epochs}
        planned |= dict.fromkeys((Stage.LOADING, Stage.STABILIZATION, Stage.EVALUATING), 1)
        return seed.stage in planned and epoch - seed.since_epoch >= planned[seed.stage]

    def _command(self, decision: DecisionMade, command: Command, end: EpochEnd) -> CommandIssued:
        assert decision.site is not None
        assert decision.seed is not None
        seed = self._host.seeds[decision.site, decision.seed]
        kernel = self._trainer_state.progress.note(decision.site, decision.seed).kernel
        return CommandIssued(
            command=command,
            site=decision.site,
            seed=decision.seed,
            blueprint=decision.blueprint or seed.blueprint,
            kernel=kernel or seed.kernel,
            expires_epoch=end.epoch,
        )

    # Commands

    def _apply(self, order: _IssuedCommand, end: EpochEnd) -> bool:
        command = order.command
        from_stage = self._host.seeds[command.site, command.seed].stage
        try:
            to_stage = next_stage(from_stage, command.command)
            self._take_effect(command, end)
        except RuleError as error:  # An earlier command of this epoch failed, so this one finds its seed elsewhere.
            refusal = CommandRefused(command=command.command, site=command.site, seed=command.seed, reason=str(error))
            self._sink.emit(refusal, epoch=end.epoch, step=end.step, cause=order.id, trace=order.trace)
            self._trainer_state.counters = self._trainer_state.counters.counted("refused", command.site)
            return False
        except DataError as error:
            failure = CommandFailed(command=command.command, site=command.site, seed=command.seed, error=str(error))
            self._sink.emit(failure, epoch=end.epoch, step=end.step, cause=order.id, trace=order.trace)
            self._trainer_state.counters = self._trainer_state.counters.counted("failed", command.site)
            if command.command is Command.LOAD:
                self._trainer_state.progress = self._trainer_state.progress.noted(
                    command.site, command.seed, kernel=None, kernel_failed=True
                )
            return False
        self._say_applied(order, from_stage, to_stage, end)
        return True

    def _take_effect(self, command: CommandIssued, end: EpochEnd) -> None:
        place = (command.site, command.seed)
        embargo = end.epoch + self._embargo if command.command is Command.CULL else None
        match command.command:
            case Command.GERMINATE:
                assert command.blueprint is not None
                self._compiler.submit(self._host.germinate(*place, life=end.epoch, blueprint=command.blueprint))
            case Command.LOAD:
                kernel = self._compiler.wait(self._order_of(place).key, timeout_s=_COMPILE_WAIT_S)
                self._host.load(*place, kernel, epoch=end.epoch)
            case other:
                self._host.apply(other, *place, epoch=end.epoch, ramp_steps=end.ramp_steps, embargo_until=embargo)

    def _say_applied(self, order: _IssuedCommand, from_stage: Stage, to_stage: Stage, end: EpochEnd) -> None:
        command = order.command
        seed = self._host.seeds[command.site, command.seed]
        applied = CommandApplied(command=command.command, site=command.site, seed=command.seed)
        cause = self._sink.emit(applied, epoch=end.epoch, step=end.step, cause=order.id, trace=order.trace)
        transition = SeedTransitioned(
            site=command.site,
            seed=command.seed,
            from_stage=from_stage,
            to_stage=to_stage,
            reason=order.reason,
            life=seed.life,
            blueprint=seed.blueprint,
            kernel=seed.kernel,
            embargo_until=seed.embargo_until,
        )
        moved = self._sink.emit(transition, epoch=end.epoch, step=end.step, cause=cause, trace=order.trace)
        if command.command is Command.GERMINATE:
            self._say_submitted(command, moved, order.trace, end)
        if to_stage in _ENDS:
            self._report(command, to_stage, moved, order.trace, end)
        self._remember(command, to_stage, end)

    def _say_submitted(self, command: CommandIssued, cause: EventId, trace: str, end: EpochEnd) -> None:
        order = self._order_of((command.site, command.seed))
        assert command.blueprint is not None
        submitted = BlueprintSubmitted(
            blueprint=command.blueprint, key=order.key, spec=order.spec, site=command.site, seed=command.seed, life=end.epoch
        )
        self._sink.emit(submitted, epoch=end.epoch, step=end.step, cause=cause, trace=trace)

    def _report(self, command: CommandIssued, stage: Stage, cause: EventId, trace: str, end: EpochEnd) -> None:
        seed = self._host.seeds[command.site, command.seed]
        note = self._trainer_state.progress.note(command.site, command.seed)
        assert seed.blueprint is not None
        assert seed.life is not None
        report = FieldReported.model_validate(
            {
                "blueprint": seed.blueprint,
                "kernel": seed.kernel,
                "site": command.site,
                "seed": command.seed,
                "life": seed.life,
                "metric_before": note.loss_at_germination if note.loss_before_graft is None else note.loss_before_graft,
                "metric_after": end.validation_loss,
                "outcome": _ENDS[stage],
            }
        )
        self._sink.emit(report, epoch=end.epoch, step=end.step, cause=cause, trace=trace)
        self._trainer_state.counters = self._trainer_state.counters.model_copy(
            update={"reports": (*self._trainer_state.counters.reports, report)}
        )

    def _remember(self, command: CommandIssued, to_stage: Stage, end: EpochEnd) -> None:
        trainer_state, place = self._trainer_state, (command.site, command.seed)
        progress = trainer_state.progress.model_copy(update={"last_adaptation_step": end.step})
        match command.command:
            case Command.GERMINATE:
                trainer_state.counters = trainer_state.counters.germinated(end.epoch)
                progress = progress.without_note(*place).noted(*place, loss_at_germination=end.validation_loss)
            case Command.GRAFT:
                progress = progress.noted(*place, loss_before_graft=end.validation_loss).with_new_cycle()
            case _ if to_stage in (Stage.CULLED, Stage.CANCELLED, Stage.DORMANT):
                progress = progress.without_note(*place)
            case _:
                pass
        # A plateau is found again after each cycle, be it that a seed was grafted or that none was found worth it.
        trainer_state.progress = progress.with_new_cycle() if command.command is Command.CULL else progress


def trace_of(decision: EventId) -> str:
    """The W3C trace context of one adaptation, made from the id of its decision."""
    digest = hashlib.sha256(decision.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"
