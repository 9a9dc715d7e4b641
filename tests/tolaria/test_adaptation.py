"""An epoch's end: what is said in which order, what becomes of each command, and which decisions stand after an interruption."""

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from esper.events.envelope import EventId
from esper.events.fields import Event
from esper.events.kinds.control import (
    Adaptation,
    Command,
    CommandApplied,
    CommandFailed,
    CommandIssued,
    CommandRefused,
    DecisionMade,
    DecisionRefused,
    FieldReported,
)
from esper.events.kinds.epoch import EpochCompleted, GateSettings, SystemState
from esper.events.kinds.kernels import BlueprintSubmitted, KernelCharacterized, KernelCompiled, KernelCompileFailed
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.run import CheckpointSaved
from esper.kasmina.compiler import Kernel, KernelCompiler, KernelError
from esper.tolaria.adaptation import _trace_of, collect_kernels, submit_waiting
from esper.tolaria.checkpoints import restore_checkpoint, save_checkpoint
from esper.tolaria.system_state import ready_seeds
from tests.tolaria.event_sinks import COMMIT, Said, logged
from tests.tolaria.worlds import (
    ADVANCE,
    CANCEL,
    CULL,
    FOSSILIZE,
    GERMINATE,
    GRAFTED,
    SITE,
    TRAINING,
    BrokenCompiler,
    Script,
    World,
    decided,
)

PLACE = (SITE, 0)
OUTCOMES = (CommandApplied, CommandRefused, CommandFailed)
OTHER_SLOT = (Adaptation.GERMINATE, 1, "lowrank:1")
WHOLE_LIFE: Script = {**GRAFTED, 6: [ADVANCE], 7: [ADVANCE], 8: [ADVANCE], 9: [FOSSILIZE]}


def world(folder: Path, script: Script, *, compiler: type[KernelCompiler] = KernelCompiler, gate: GateSettings | None = None) -> World:
    """A world whose host has taken one step, so that a seed can germinate."""
    made = World(folder, script=script, compiler=compiler, gate=gate)
    made.step()
    return made


def lived(
    folder: Path, script: Script, until: int, *, compiler: type[KernelCompiler] = KernelCompiler, gate: GateSettings | None = None
) -> World:
    """The same after the ends of epochs 1 to `until`; the validation loss of epoch e is 10 - e."""
    made = world(folder, script, compiler=compiler, gate=gate)
    for epoch in range(1, until + 1):
        made.end(epoch, validation_loss=10.0 - epoch)
    return made


def stage(made: World, slot: int = 0) -> Stage:
    return made.host.seeds[SITE, slot].stage


class BurstingCompiler(KernelCompiler):
    """Compiles, and loses the kernel when it is asked for again: at the load."""

    asked = 0

    def wait(self, key: str, timeout_s: float) -> Kernel:
        """The kernel, once."""
        self.asked += 1
        if self.asked > 1:
            raise KernelError(f"expected kernel {key[:8]}, its file is gone")
        return super().wait(key, timeout_s)


# Order


def test_all_commands_of_an_epoch_are_on_disk_before_the_first_takes_effect(tmp_path: Path) -> None:
    made = lived(tmp_path, TRAINING, 1)
    made.sink.story.clear()
    made.end(2)
    assert made.sink.kinds() == [
        *("KernelCompiled", "KernelCharacterized"),
        *("DecisionMade", "CommandIssued", "DecisionMade", "CommandIssued", COMMIT),
        *("CommandApplied", "SeedTransitioned", "CommandApplied", "SeedTransitioned", COMMIT),
    ]


def test_nothing_has_changed_in_the_host_when_the_commands_are_committed(tmp_path: Path) -> None:
    made = lived(tmp_path, TRAINING, 1)
    stages: list[Stage] = []
    commit = made.sink.commit

    def watched() -> None:
        stages.append(stage(made))
        commit()

    made.sink.commit = watched  # type: ignore[method-assign] # A look at the host at every commit.
    made.end(2)
    assert stages == [Stage.GERMINATED, Stage.TRAINING]


def test_every_command_has_one_outcome(tmp_path: Path) -> None:
    script = {1: [GERMINATE, OTHER_SLOT], 2: [ADVANCE, ADVANCE], 3: [CULL, (Adaptation.CANCEL, 1)]}
    made = lived(tmp_path, script, 3, compiler=BurstingCompiler)
    issued = [one.id for one in made.sink.said if isinstance(one.event, CommandIssued)]
    outcomes = Counter(one.cause for one in made.sink.said if isinstance(one.event, OUTCOMES))
    assert outcomes == dict.fromkeys(issued, 1)
    assert len(issued) == 5


def test_a_life_goes_through_all_stages_as_decided(tmp_path: Path) -> None:
    made = lived(tmp_path, WHOLE_LIFE, 9)
    transitions = made.sink.of(SeedTransitioned)
    assert [one.to_stage.value for one in transitions] == [
        *("GERMINATED", "LOADING", "TRAINING", "GRAFTING", "STABILIZATION", "EVALUATING", "FINE_TUNING", "FOSSILIZED"),
    ]
    assert [one.from_stage for one in transitions] == [Stage.DORMANT, *(one.to_stage for one in transitions[:-1])]
    assert {one.life for one in transitions} == {1}


def test_each_adaptation_is_one_chain_of_causes_under_one_trace(tmp_path: Path) -> None:
    made = lived(tmp_path, {1: [GERMINATE, OTHER_SLOT]}, 1)
    said = {one.id: one for one in made.sink.said}

    def causes(one: Said) -> list[str]:
        found = []
        while one.cause in said:
            one = said[one.cause]
            found.append(type(one.event).__name__)
        return found

    first, second = (one for one in said.values() if isinstance(one.event, BlueprintSubmitted))
    assert causes(first) == ["SeedTransitioned", "CommandApplied", "CommandIssued", "DecisionMade"]
    decision = next(one for one in said.values() if isinstance(one.event, DecisionMade))
    assert decision.cause == "epoch/1"
    assert first.trace == _trace_of(decision.id) != second.trace
    under = {type(one.event).__name__ for one in said.values() if one.trace == first.trace}
    assert under == {"CommandIssued", "CommandApplied", "SeedTransitioned", "BlueprintSubmitted"}


def test_a_trace_is_a_w3c_trace_context() -> None:
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", _trace_of(EventId("run/7")))


# Gate


def refusals(made: World) -> list[str]:
    return [one.rule for one in made.sink.of(DecisionRefused)]


def test_a_decision_is_judged_after_those_before_it(tmp_path: Path) -> None:
    made = lived(tmp_path, {1: [GERMINATE, GERMINATE]}, 1)
    assert refusals(made) == ["legal"]
    assert len(made.sink.of(CommandIssued)) == 1


def test_a_refused_decision_changes_nothing_and_names_its_rule(tmp_path: Path) -> None:
    made = lived(tmp_path, {1: [ADVANCE]}, 1)
    (refused,) = (one for one in made.sink.said if isinstance(one.event, DecisionRefused))
    (decision,) = (one for one in made.sink.said if isinstance(one.event, DecisionMade))
    assert (refused.cause, refused.trace) == (decision.id, _trace_of(decision.id))
    assert made.sink.kinds() == ["DecisionMade", "DecisionRefused", COMMIT]
    assert made.state(2).sites[0].refused == 1
    assert stage(made) is Stage.DORMANT


def test_a_confidence_that_is_not_a_number_is_recorded_and_refused(tmp_path: Path) -> None:
    made = World(tmp_path, script=lambda _state, evidence: (decided(GERMINATE, evidence, confidence=math.nan),))
    made.step()
    made.end(1)
    assert math.isnan(made.sink.of(DecisionMade)[0].confidence)
    assert refusals(made) == ["finite"]


def test_deciding_nothing_is_recorded_and_that_is_all(tmp_path: Path) -> None:
    nothing = DecisionMade(
        adaptation=Adaptation.NONE, site=None, seed=None, confidence=1.0, urgency=0.0, reason="no plateau", evidence=(EventId("epoch/1"),)
    )
    made = World(tmp_path, script=lambda _state, _evidence: (nothing,))
    made.end(1)
    assert made.sink.kinds() == ["DecisionMade", COMMIT]


def test_candidates_of_one_race_pass_together_and_the_next_race_waits(tmp_path: Path) -> None:
    script = {1: [GERMINATE, OTHER_SLOT], 2: [CANCEL], 3: [ADVANCE, GERMINATE], 6: [GERMINATE]}
    made = lived(tmp_path, script, 6, gate=GateSettings(cooldown=5))
    assert refusals(made) == ["cooldown"]
    assert [one.life for one in made.sink.of(BlueprintSubmitted)] == [1, 1, 6]
    assert (made.training.counters.germinations, made.training.counters.germination_epochs) == (2, (1, 6))


def test_a_culled_slot_is_reset_when_its_embargo_is_over_and_not_before(tmp_path: Path) -> None:
    script = {**TRAINING, 3: [CULL], 4: [ADVANCE], 5: [ADVANCE]}
    made = lived(tmp_path, script, 3, gate=GateSettings(embargo=2))
    assert made.host.seeds[PLACE].embargo_until == 5
    made.end(4)
    assert (stage(made), refusals(made)) == (Stage.CULLED, ["embargo"])
    made.end(5)
    assert (stage(made), made.host.seeds[PLACE].life) == (Stage.DORMANT, None)


# Commands


def test_commands_carry_what_they_need(tmp_path: Path) -> None:
    made = lived(tmp_path, GRAFTED, 3)
    germinate, load, train, graft = made.sink.of(CommandIssued)
    kernel = made.sink.of(KernelCompiled)[0].kernel
    assert (germinate.blueprint, germinate.kernel) == ("mlp:2", None)
    assert (load.command, load.kernel, load.blueprint) == (Command.LOAD, kernel, "mlp:2")
    assert graft.command is Command.GRAFT
    assert [one.expires_epoch for one in (germinate, load, train, graft)] == [1, 2, 2, 3]


def test_a_command_whose_predecessor_failed_is_refused(tmp_path: Path) -> None:
    made = lived(tmp_path, TRAINING, 2, compiler=BurstingCompiler)
    (failed,), (refused,) = made.sink.of(CommandFailed), made.sink.of(CommandRefused)
    assert (failed.command, refused.command) == (Command.LOAD, Command.TRAIN)
    assert "its file is gone" in failed.error
    assert "GERMINATED" in refused.reason
    assert stage(made) is Stage.GERMINATED
    assert (made.training.counters.failed, made.training.counters.refused) == ({SITE: 1}, {SITE: 1})


def test_a_seed_whose_kernel_could_not_be_loaded_waits_for_none_and_recovers(tmp_path: Path) -> None:
    made = lived(tmp_path, TRAINING, 2, compiler=BurstingCompiler)
    seeds = made.state(3).seeds
    assert (seeds[0].recovering, seeds[0].ready) == (True, False)
    made.end(3)
    assert len(made.sink.of(KernelCompiled)) == 1


def test_a_germination_beyond_the_limit_fails_and_changes_nothing(tmp_path: Path) -> None:
    made = world(tmp_path, {1: [GERMINATE]})
    made.host.parameters_limit = 24
    made.end(1)
    (failed,) = made.sink.of(CommandFailed)
    assert failed.command is Command.GERMINATE
    assert "at most 24 parameters" in failed.error
    assert (stage(made), made.training.counters.germinations) == (Stage.DORMANT, 0)
    assert made.sink.kinds() == ["DecisionMade", "CommandIssued", COMMIT, "CommandFailed", COMMIT]


def test_only_commands_that_took_effect_are_given_back(tmp_path: Path) -> None:
    made = lived(tmp_path, TRAINING, 1, compiler=BurstingCompiler)
    assert made.end(2) == frozenset()
    other = lived(tmp_path / "other", TRAINING, 1)
    assert other.end(2) == {Command.LOAD, Command.TRAIN}


# Kernels


def test_a_kernel_is_said_at_the_next_epochs_end_with_what_it_costs(tmp_path: Path) -> None:
    made = lived(tmp_path, {1: [GERMINATE]}, 2)
    (submitted,), (compiled,) = made.sink.of(BlueprintSubmitted), made.sink.of(KernelCompiled)
    (measured,) = (one for one in made.sink.said if isinstance(one.event, KernelCharacterized))
    assert (compiled.key, compiled.life, compiled.seed) == (submitted.key, 1, 0)
    assert isinstance(measured.event, KernelCharacterized)
    assert (measured.event.kernel, measured.event.parameters) == (compiled.kernel, 4 * 2 + 2 + 2 * 3 + 3)
    assert measured.cause == next(one.id for one in made.sink.said if one.event is compiled)
    assert made.state(2).seeds[0].ready is True


def test_a_kernel_is_said_once(tmp_path: Path) -> None:
    made = lived(tmp_path, {1: [GERMINATE]}, 4)
    assert len(made.sink.of(KernelCompiled)) == 1


def test_a_kernel_that_cannot_be_compiled_is_said_once_and_its_seed_recovers(tmp_path: Path) -> None:
    made = lived(tmp_path, {1: [GERMINATE], 3: [ADVANCE]}, 3, compiler=BrokenCompiler)
    (failed,) = made.sink.of(KernelCompileFailed)
    assert (failed.site, failed.seed, failed.life) == (SITE, 0, 1)
    assert "burst" in failed.error
    seeds = made.state(3).seeds
    assert (seeds[0].stage, seeds[0].recovering, seeds[0].ready) == (Stage.GERMINATED, True, False)
    assert refusals(made) == ["ready"]
    assert made.state(3).sites[0].failed == 1


def test_the_next_life_in_a_slot_does_not_inherit_a_kernel_that_failed(tmp_path: Path) -> None:
    script = {1: [GERMINATE], 2: [CANCEL], 3: [ADVANCE], 7: [GERMINATE]}
    made = lived(tmp_path, script, 7, compiler=BrokenCompiler)
    seeds = made.state(7).seeds
    assert (seeds[0].life, seeds[0].recovering) == (7, False)


def test_after_a_restore_the_kernels_that_are_waited_for_are_ordered_again(tmp_path: Path) -> None:
    made = lived(tmp_path / "one", {1: [GERMINATE]}, 1)
    made.training.counters = made.training.counters.model_copy(update={"epoch": 1})
    save_checkpoint(made.training, "due")
    (kept,) = made.training.counters.checkpoints
    again = World(tmp_path / "other", script=TRAINING)
    (tmp_path / "one" / "checkpoints").rename(tmp_path / "other" / "checkpoints")
    restore_checkpoint(again.training, kept.name, kept.digest)
    submit_waiting(again.training)
    again.end(2)
    assert stage(again) is Stage.TRAINING


# What is remembered and reported


REPORTS: list[tuple[Script, int, tuple[str, float | None, float | None]]] = [
    ({1: [GERMINATE], 2: [CANCEL]}, 2, ("CANCELLED", 9.0, 8.0)),
    ({**TRAINING, 3: [CULL]}, 3, ("CULLED", 9.0, 7.0)),
    ({**GRAFTED, 4: [CULL]}, 4, ("CULLED", 7.0, 6.0)),
    (WHOLE_LIFE, 9, ("FOSSILIZED", 7.0, 1.0)),
]


@pytest.mark.parametrize(("script", "until", "expected"), REPORTS)
def test_a_life_that_ends_is_reported_with_the_loss_before_its_graft_else_its_germination(
    tmp_path: Path, script: Script, until: int, expected: tuple[str, float | None, float | None]
) -> None:
    made = lived(tmp_path, script, until)
    (report,) = made.sink.of(FieldReported)
    assert (report.outcome, report.metric_before, report.metric_after) == expected
    assert (report.blueprint, report.life, report.site, report.seed) == ("mlp:2", 1, SITE, 0)
    assert made.training.counters.reports == (report,)


@pytest.mark.parametrize("script", [GRAFTED, {**TRAINING, 3: [CULL]}])
def test_a_graft_and_a_cull_begin_a_new_cycle(tmp_path: Path, script: Script) -> None:
    made = lived(tmp_path, script, 2)
    made.training.progress = made.training.progress.after_validation(3, 1.0)
    made.end(3)
    assert made.training.progress.validation_losses == ()


def test_other_commands_leave_the_cycle_as_it_is(tmp_path: Path) -> None:
    made = lived(tmp_path, {**TRAINING, 3: [CANCEL]}, 2)
    made.training.progress = made.training.progress.after_validation(3, 1.0)
    made.end(3)
    assert stage(made) is Stage.CANCELLED
    assert made.training.progress.validation_losses == (1.0,)


@pytest.mark.parametrize("end", [CULL, CANCEL])
def test_nothing_is_remembered_of_a_life_that_is_over(tmp_path: Path, end: tuple[Adaptation, int]) -> None:
    made = lived(tmp_path, {**TRAINING, 3: [end]}, 2)
    made.end(3)
    assert made.training.progress.notes == ()


READY: list[tuple[Script, int, bool]] = [
    (TRAINING, 4, False),
    (TRAINING, 5, True),
    (GRAFTED, 5, False),
    (GRAFTED, 6, True),
    ({**GRAFTED, 6: [ADVANCE]}, 6, False),
    ({**GRAFTED, 6: [ADVANCE]}, 7, True),
    ({**TRAINING, 3: [CULL]}, 5, False),
    ({**TRAINING, 3: [CULL]}, 6, True),
    ({**TRAINING, 3: [CANCEL]}, 3, True),
]


@pytest.mark.parametrize(("script", "epoch", "ready"), READY)
def test_a_seed_is_ready_when_its_stage_has_lasted_as_planned(tmp_path: Path, script: Script, epoch: int, ready: bool) -> None:
    made = lived(tmp_path, script, epoch)
    assert ready_seeds(made.training)[PLACE] is ready


# While a resumed run catches up

EPOCH_1 = EventId("epoch/1")
FIRST, SECOND = decided(GERMINATE, EPOCH_1), decided(OTHER_SLOT, EPOCH_1)
APPLIED = CommandApplied(command=Command.GERMINATE, site=SITE, seed=0)


def catching_up(folder: Path, policy: tuple[DecisionMade, ...] | None, *ahead: Event) -> list[DecisionMade]:
    """What is decided after epoch 1 where the log holds `ahead`; a policy of None must not be asked."""

    def decide(_state: SystemState, _evidence: EventId) -> tuple[DecisionMade, ...]:
        assert policy is not None, "the policy was asked"
        return policy

    made = World(folder, script=decide)
    made.step()
    made.sink.pending_facts = logged(*ahead)
    made.end(1)
    return made.sink.of(DecisionMade)


def test_the_logged_decisions_of_an_epoch_stand_and_the_policy_is_not_asked(tmp_path: Path) -> None:
    assert catching_up(tmp_path, None, FIRST, SECOND, APPLIED) == [FIRST, SECOND]


@pytest.mark.parametrize("following", [CheckpointSaved, EpochCompleted])
def test_an_epoch_that_was_logged_without_decisions_stays_without(tmp_path: Path, following: type[Event]) -> None:
    ahead = World(tmp_path / "other").run().sink.of(following)[0]
    assert catching_up(tmp_path, None, ahead) == []


def test_decisions_that_were_cut_short_are_completed_by_a_policy_that_agrees(tmp_path: Path) -> None:
    assert catching_up(tmp_path, (FIRST, SECOND), FIRST) == [FIRST, SECOND]


def test_decisions_that_were_cut_short_stand_alone_where_the_policy_differs(tmp_path: Path) -> None:
    changed = FIRST.model_copy(update={"reason": "another"})
    assert catching_up(tmp_path, (changed, SECOND), FIRST) == [FIRST]


def test_the_next_epochs_first_word_says_that_all_was_decided(tmp_path: Path) -> None:
    compiled = KernelCompiled(key="0" * 64, kernel="1" * 64, site=SITE, seed=0, life=1, duration_ms=1.0, from_cache=False)
    assert catching_up(tmp_path, None, FIRST, compiled) == [FIRST]


def test_a_decision_that_is_not_a_number_agrees_with_itself(tmp_path: Path) -> None:
    impossible = FIRST.model_copy(update={"confidence": math.nan})
    decisions = catching_up(tmp_path, (impossible, SECOND), impossible)
    assert [one.blueprint for one in decisions] == [FIRST.blueprint, SECOND.blueprint]


def test_a_kernel_that_failed_by_the_log_has_failed_even_if_it_could_be_made_now(tmp_path: Path) -> None:
    made = lived(tmp_path, TRAINING, 1)
    (submitted,) = made.sink.of(BlueprintSubmitted)
    failed = KernelCompileFailed(key=submitted.key, site=SITE, seed=0, life=1, error="the disk was full")
    made.sink.pending_facts = logged(failed, epoch=2)
    made.at(2)
    collect_kernels(made.training)
    assert made.sink.said[-1].event == failed
    assert made.state(2).seeds[0].recovering


def test_at_the_end_of_the_log_the_policy_decides(tmp_path: Path) -> None:
    assert catching_up(tmp_path, (SECOND,)) == [SECOND]
