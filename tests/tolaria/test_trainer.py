"""The training loop: its arithmetic, its order, where it stops, and that the same settings give the same bits."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from esper.errors import DataError
from esper.events.codec import decode_payload, encode
from esper.events.envelope import EventId
from esper.events.kinds.control import CommandApplied, CommandIssued, DecisionMade
from esper.events.kinds.epoch import EpochCompleted, StateDigests, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import CheckpointSaved
from esper.events.kinds.telemetry import SeedHealthMeasured, StepsMeasured
from esper.tolaria.objective import Batch, Batches, Supervised
from esper.tolaria.trainer import Interrupted
from esper.tolaria.training import TrainerSettings
from tests.tolaria.event_sinks import COMMIT, Said
from tests.tolaria.worlds import (
    ADVANCE,
    FOSSILIZE,
    GRAFTED,
    SAMPLES,
    STEPS,
    Script,
    World,
    batches,
    completed,
    loss_of,
    perceptron,
    samples,
    started,
)

GROWN: Script = {**GRAFTED, 6: [ADVANCE]}
WHOLE: Script = {**GROWN, 7: [ADVANCE], 8: [ADVANCE], 9: [FOSSILIZE]}


def sgd(parameters: object) -> SGD:
    """A host's optimizer whose step is its gradient."""
    return SGD(parameters, lr=1.0)  # type: ignore[arg-type] # Parameters are what it gets.


# Order


def test_an_epoch_is_said_decided_and_applied_in_this_order_and_written_ahead(tmp_path: Path) -> None:
    made = World(tmp_path, script=GROWN, settings=TrainerSettings(epochs=3, checkpoint_every=10)).run()
    told = made.sink.kinds()
    assert told[:3] == ["RunStarted", "CheckpointSaved", COMMIT]
    third = told[len(told) - 1 - told[::-1].index("step") - STEPS + 1 :]
    assert third == [
        *(["step"] * STEPS),
        *("EpochCompleted", "DecisionMade", "CommandIssued", COMMIT),
        *("CommandApplied", "SeedTransitioned", COMMIT),
        *("CheckpointSaved", COMMIT),
    ]


def test_every_outcome_is_on_disk_before_the_next_epoch_takes_a_step(tmp_path: Path) -> None:
    made = World(tmp_path, script=GROWN, settings=TrainerSettings(epochs=7)).run()
    waiting = 0
    for one in made.sink.story:
        if isinstance(one, Said):
            waiting += 1
        elif one == COMMIT:
            waiting = 0
        else:
            assert waiting == 0, "a step was taken with facts that are not on disk"
    assert len(made.sink.of(CommandApplied)) == len(made.sink.of(CommandIssued)) == 5


def test_a_kernel_is_waited_for_and_said_before_the_epoch_is_completed(tmp_path: Path) -> None:
    made = World(tmp_path, script=GROWN, settings=TrainerSettings(epochs=2)).run()
    told = [type(one.event).__name__ for one in made.sink.said if one.epoch == 2]
    assert told[:3] == ["KernelCompiled", "KernelCharacterized", "EpochCompleted"]


def test_the_policy_sees_what_the_log_has(tmp_path: Path) -> None:
    seen: list[tuple[SystemState, EventId]] = []

    def policy(state: SystemState, evidence: EventId) -> tuple[DecisionMade, ...]:
        seen.append((state, evidence))
        return ()

    made = World(tmp_path, script=policy, settings=TrainerSettings(epochs=2)).run()
    said = [one for one in made.sink.said if isinstance(one.event, EpochCompleted)]
    again = [decode_payload(EpochCompleted.KIND, encode(one.event)) for one in said]
    assert [state for state, _ in seen] == [one.system for one in again if isinstance(one, EpochCompleted)]
    assert [evidence for _, evidence in seen] == [one.id for one in said]
    assert not [one for one, (state, _) in zip(completed(made), seen, strict=True) if one.system is state]  # It was written and read.


def test_a_checkpoint_is_saved_at_the_start_when_due_before_a_graft_and_at_the_end(tmp_path: Path) -> None:
    made = World(tmp_path, script=GROWN, settings=TrainerSettings(epochs=7, checkpoint_every=2)).run()
    saved = [(one.epoch, one.event.reason) for one in made.sink.said if isinstance(one.event, CheckpointSaved)]
    assert saved == [(0, "start"), (2, "due"), (3, "before_grafting"), (4, "due"), (6, "due"), (7, "end")]


# Arithmetic


def after_one_step(
    folder: Path, size: int, *, accumulate: int = 1, clip: float | None = None, train: Batches | None = None
) -> tuple[World, list[Tensor]]:
    """A world after one optimizer step of plain SGD, and by how much it moved: the gradient."""
    data = batches(size) if train is None else train
    made = World(folder, settings=TrainerSettings(epochs=1, accumulate=accumulate, clip=clip), train=data, optimizer=sgd, sites=None)
    before = [parameter.detach().clone() for parameter in made.host.host_parameters()]
    made.run()
    return made, [old - new.detach() for old, new in zip(before, made.host.host_parameters(), strict=True)]


def test_micro_batches_give_the_gradient_of_the_one_big_batch_in_one_step(tmp_path: Path) -> None:
    _, big = after_one_step(tmp_path / "big", SAMPLES)
    made, small = after_one_step(tmp_path / "small", 5, accumulate=4)
    assert [float(gradient.abs().sum()) > 0 for gradient in big] == [True] * 4
    for one, other in zip(big, small, strict=True):
        torch.testing.assert_close(one, other)
    assert (completed(made)[0].optimizer_steps, made.training.counters.step) == (1, 1)


def test_micro_batches_of_10_10_and_5_samples_are_one_batch_of_25(tmp_path: Path) -> None:
    inputs, targets = samples(25)
    parts = list(zip(inputs.split(10), targets.split(10), strict=True))
    one, big = after_one_step(tmp_path / "big", 25, train=[(inputs, targets)])
    made, small = after_one_step(tmp_path / "small", 10, accumulate=3, train=parts)
    for expected, got in zip(big, small, strict=True):
        torch.testing.assert_close(got, expected)
    measured, wanted = completed(made)[0].train, completed(one)[0].train
    assert measured.samples == 25
    assert {"loss": measured.loss, **measured.metrics} == pytest.approx({"loss": wanted.loss, **wanted.metrics})


def test_a_last_group_of_fewer_micro_batches_is_a_step_of_its_own(tmp_path: Path) -> None:
    made = World(tmp_path, settings=TrainerSettings(epochs=1, accumulate=3)).run()
    assert completed(made)[0].optimizer_steps == 2
    assert completed(made)[0].train.samples == SAMPLES


def test_the_clip_bounds_the_gradient_and_keeps_its_direction(tmp_path: Path) -> None:
    _, free = after_one_step(tmp_path / "free", SAMPLES)
    made, clipped = after_one_step(tmp_path / "clipped", SAMPLES, clip=0.01)
    norm = torch.nn.utils.get_total_norm(clipped)
    assert float(norm) == pytest.approx(0.01, rel=1e-3)
    one, other = (torch.cat([gradient.reshape(-1) for gradient in gradients]) for gradients in (free, clipped))
    assert float(F.cosine_similarity(one, other, dim=0)) == pytest.approx(1.0)
    (telemetry,) = (event for event in made.sink.measured if isinstance(event, StepsMeasured))
    free_norm = float(torch.nn.utils.get_total_norm(free))
    assert telemetry.steps.gradient_norm is not None
    assert telemetry.steps.gradient_norm[0] == pytest.approx(free_norm, rel=1e-5)  # Said as it was before the clip.


def test_the_clip_is_over_the_hosts_own_parameters_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = World(tmp_path, script=WHOLE, settings=TrainerSettings(epochs=11, clip=0.5))
    clipped: list[list[int]] = []
    clip = torch.nn.utils.clip_grad_norm_

    def watched(parameters: list[Tensor], max_norm: float) -> Tensor:
        if max_norm == 0.5:
            clipped.append([id(parameter) for parameter in parameters])
        return clip(parameters, max_norm)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    own = [id(parameter) for parameter in made.model.parameters()]
    made.run()
    assert made.host.seeds["0", 0].stage is Stage.FOSSILIZED
    assert len(list(made.model.parameters())) > len(own)
    assert clipped == [own] * (11 * STEPS)


def test_train_loss_and_metrics_are_means_over_the_samples_of_the_epoch(tmp_path: Path) -> None:
    made = World(tmp_path, train=batches(8), settings=TrainerSettings(epochs=1), optimizer=lambda own: SGD(own, lr=0.0)).run()
    inputs, targets = samples()
    with torch.no_grad():
        output = perceptron()(inputs)
    (epoch,) = completed(made)
    assert epoch.train.loss == pytest.approx(float(loss_of(output, targets).mean()), rel=1e-6)
    assert epoch.train.metrics["accuracy"] == pytest.approx(float((output.argmax(1) == targets).double().mean()))
    assert (epoch.train.samples, epoch.optimizer_steps) == (SAMPLES, 3)
    assert epoch.validation is not None
    assert epoch.validation.loss == pytest.approx(epoch.train.loss, rel=1e-6)


@pytest.mark.parametrize("loss", [loss_of, F.cross_entropy])
def test_a_loss_a_sample_and_a_mean_train_the_same(tmp_path: Path, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    made = World(tmp_path, loss=loss, settings=TrainerSettings(epochs=2)).run()
    assert completed(made)[-1].train.loss == pytest.approx(_reference(), rel=1e-5)


def _reference() -> float:
    """The train loss of the second epoch, by a plain loop."""
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    total = 0.0
    for _ in range(2):
        total = 0.0
        for inputs, targets in batches():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += float(loss.detach()) * len(inputs)
    return total / SAMPLES


def test_the_same_steps_as_a_plain_loop_give_the_same_bits(tmp_path: Path) -> None:
    made = World(tmp_path, loss=F.cross_entropy, settings=TrainerSettings(epochs=2)).run()
    assert completed(made)[-1].train.loss == _reference()


# Length


@pytest.mark.parametrize(("accumulate", "batches_taken"), [(1, 3), (2, 6)])
def test_an_epoch_of_a_stream_is_as_many_steps_as_asked_for(tmp_path: Path, accumulate: int, batches_taken: int) -> None:
    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield samples()

    made = World(tmp_path, train=endless(), settings=TrainerSettings(epochs=2, epoch_steps=3, accumulate=accumulate)).run()
    assert [epoch.optimizer_steps for epoch in completed(made)] == [3, 3]
    assert made.sink.story.count("step") == 2 * batches_taken


def test_a_stream_is_not_asked_for_more_than_it_is_trained_on(tmp_path: Path) -> None:
    stream = iter(batches())
    made = World(tmp_path, train=stream, settings=TrainerSettings(epochs=1, epoch_steps=3))
    made.run()
    assert len(list(stream)) == 1


def test_data_shorter_than_the_steps_asked_for_end_the_epoch(tmp_path: Path) -> None:
    made = World(tmp_path, settings=TrainerSettings(epochs=1, epoch_steps=100)).run()
    assert completed(made)[0].optimizer_steps == STEPS


def test_a_ramp_is_as_long_as_the_epochs_really_are(tmp_path: Path) -> None:
    made = World(tmp_path, script=GROWN, settings=TrainerSettings(epochs=4, epoch_steps=100)).run()
    assert made.host.seeds["0", 0].alpha == pytest.approx(1 / 3)  # One epoch of three.


@pytest.mark.parametrize("which", ["train", "valid"])
def test_no_data_is_an_error_that_says_which(tmp_path: Path, which: str) -> None:
    made = World(tmp_path, train=[] if which == "train" else None, valid=[] if which == "valid" else None)
    with pytest.raises(DataError, match=f"the {'training' if which == 'train' else 'validation'} data is empty"):
        made.run()


class Worsening:
    """The usual losses; on the validation data, one more with every epoch from `best` on."""

    def __init__(self, best: int) -> None:
        self.best, self.world = best, None

    world: World | None

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What it always is, or worse."""
        losses, metrics = Supervised(loss_of)(model, batch)
        if model.training or self.world is None:
            return losses, metrics
        return losses * 0 + abs(self.world.training.counters.epoch - self.best) + 1.0, metrics


def test_training_stops_when_patience_is_over_and_says_so(tmp_path: Path) -> None:
    worsening = Worsening(best=2)
    made = World(tmp_path, objective=worsening, settings=TrainerSettings(epochs=20, patience=3))
    worsening.world = made
    made.trainer.start(started())
    outcome = made.trainer.train()
    assert [epoch.system.epochs_since_improvement for epoch in completed(made)] == [0, 0, 1, 2, 3]
    assert outcome.stopped_early
    assert outcome.metrics["validation_loss"] == 4.0


def test_patience_that_is_over_at_the_last_epoch_has_stopped_nothing(tmp_path: Path) -> None:
    worsening = Worsening(best=2)
    made = World(tmp_path, objective=worsening, settings=TrainerSettings(epochs=5, patience=3))
    worsening.world = made
    made.trainer.start(started())
    assert not made.trainer.train().stopped_early
    assert len(completed(made)) == 5


def test_with_patience_left_all_epochs_are_trained(tmp_path: Path) -> None:
    made = World(tmp_path, settings=TrainerSettings(epochs=3, patience=3))
    made.trainer.start(started())
    assert not made.trainer.train().stopped_early
    assert len(completed(made)) == 3


def test_a_scheduler_steps_once_an_epoch(tmp_path: Path) -> None:
    made = World(tmp_path, scheduler=lambda optimizer: ExponentialLR(optimizer, 0.5), settings=TrainerSettings(epochs=3)).run()
    assert [epoch.learning_rates for epoch in completed(made)] == [(0.01,), (0.005,), (0.0025,)]


def test_a_scheduler_that_waits_for_a_plateau_is_told_the_validation_loss(tmp_path: Path) -> None:
    worsening = Worsening(best=2)
    made = World(
        tmp_path,
        objective=worsening,
        scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=0),
        settings=TrainerSettings(epochs=5),
    )
    worsening.world = made
    made.run()
    assert [epoch.learning_rates for epoch in completed(made)] == [(0.01,), (0.01,), (0.01,), (0.005,), (0.0025,)]


def test_asked_to_stop_training_ends_after_the_step_under_way_with_all_on_disk(tmp_path: Path) -> None:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) == STEPS + 2

    made = World(tmp_path, stop=stop)
    with pytest.raises(Interrupted, match="stopped in epoch 2 after step 6"):
        made.run()
    assert made.sink.story[-2:] == ["step", COMMIT]
    assert (made.training.counters.step, len(completed(made))) == (STEPS + 2, 1)


def test_what_was_interrupted_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = World(tmp_path / "whole", script=GROWN, settings=TrainerSettings(epochs=6, checkpoint_every=1)).run()
    stops = iter([False] * (4 * STEPS + 1) + [True])
    made = World(tmp_path / "made", script=GROWN, settings=TrainerSettings(epochs=6, checkpoint_every=1), stop=lambda: next(stops))
    with pytest.raises(Interrupted):
        made.run()
    kept = made.training.counters.checkpoints[-1]
    again = World(tmp_path / "made", script=GROWN, settings=TrainerSettings(epochs=6, checkpoint_every=1))
    again.trainer.resume(kept.name, kept.digest, {})
    again.trainer.train()
    assert [epoch.digests for epoch in completed(again)] == [epoch.digests for epoch in completed(whole)[4:]]


# Bits


def digests_of(made: World) -> list[StateDigests]:
    return [epoch.digests for epoch in completed(made)]


def shuffled(folder: Path, settings: TrainerSettings) -> World:
    """A run whose data order and dropout are drawn at random."""

    class Shuffled:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            inputs, targets = samples()
            for chosen in torch.randperm(SAMPLES).split(5):
                yield inputs[chosen], targets[chosen]

    return World(folder, script=GROWN, model=perceptron(3, nn.Dropout(0.3)), train=Shuffled(), settings=settings).run()


@pytest.mark.whole
def test_the_same_settings_twice_give_the_same_digests_at_every_epoch(tmp_path: Path) -> None:
    one, other = (digests_of(shuffled(tmp_path / name, TrainerSettings(epochs=7))) for name in ("one", "other"))
    assert one == other
    assert len({digest.parameters for digest in one}) == 7
    assert len({digest.random for digest in one}) == 7


def test_another_rng_seed_trains_another_way_from_the_first_epoch_on(tmp_path: Path) -> None:
    one, other = (digests_of(shuffled(tmp_path / str(seed), TrainerSettings(epochs=2, rng_seed=seed))) for seed in (0, 1))
    assert one[0].parameters != other[0].parameters
    assert one[0].random != other[0].random


@pytest.mark.whole
def test_telemetry_changes_no_bit(tmp_path: Path) -> None:
    with_it = shuffled(tmp_path / "with", TrainerSettings(epochs=7))
    without = shuffled(tmp_path / "without", TrainerSettings(epochs=7, telemetry=False))
    assert digests_of(with_it) == digests_of(without)
    assert [epoch.system for epoch in completed(with_it)] == [epoch.system for epoch in completed(without)]
    assert with_it.sink.measured
    assert not without.sink.measured


def test_only_the_digests_that_are_asked_for_are_taken(tmp_path: Path) -> None:
    full, parameters, off = (
        digests_of(shuffled(tmp_path / digest, TrainerSettings(epochs=1, digest=digest)))[0] for digest in ("full", "parameters", "off")
    )
    assert None not in (full.parameters, full.optimizer, full.random)
    assert (parameters.parameters, parameters.optimizer, parameters.random) == (full.parameters, None, None)
    assert (off.parameters, off.optimizer, off.random) == (None, None, None)


# Telemetry


def test_every_step_is_measured_once_in_spans(tmp_path: Path) -> None:
    made = World(tmp_path, settings=TrainerSettings(epochs=2, measure_every=3)).run()
    spans = [event.steps.step for event in made.sink.measured if isinstance(event, StepsMeasured)]
    assert spans == [(1, 2, 3), (4,), (5, 6, 7), (8,)]


SHORT: list[tuple[TrainerSettings, bool, int]] = [  # Settings, a stream of unknown length, measurements in three epochs.
    (TrainerSettings(epochs=3, measure_every=1), False, 3 * STEPS),
    (TrainerSettings(epochs=3, measure_every=3), False, 3),
    (TrainerSettings(epochs=3, measure_every=10), False, 3),
    (TrainerSettings(epochs=3, measure_every=10, accumulate=3), False, 3),
    (TrainerSettings(epochs=3, measure_every=10, epoch_steps=2), False, 3),
    (TrainerSettings(epochs=3, measure_every=10, epoch_steps=2), True, 3),
    (TrainerSettings(epochs=3, measure_every=10, epoch_steps=100), False, 3),
]


@pytest.mark.parametrize(("settings", "stream", "count"), SHORT)
def test_health_is_measured_in_every_epoch_however_short(tmp_path: Path, settings: TrainerSettings, stream: bool, count: int) -> None:
    made = World(tmp_path, train=iter(batches() * 3) if stream else None, script=GROWN, settings=settings).run()
    assert [epoch.system.sites[0].gradient_pressure is not None for epoch in completed(made)] == [True] * 3
    assert len([event for event in made.sink.measured if isinstance(event, SeedHealthMeasured)]) == count


def test_health_in_telemetry_says_which_seeds_are_ready(tmp_path: Path) -> None:
    made = World(tmp_path, script=GROWN, settings=TrainerSettings(epochs=6)).run()
    told = [event.health for event in made.sink.measured if isinstance(event, SeedHealthMeasured)]
    assert [health.seed for health in told] == [(None,), *[(None, 0)] * 5]
    assert [health.ready[-1] for health in told] == [None, False, False, False, False, True]
    *_, last = (event for event in made.sink.measured if isinstance(event, SeedHealthMeasured))
    assert last.last_adaptation_step == 3 * STEPS


def test_a_journal_that_fails_ends_training(tmp_path: Path) -> None:
    made = World(tmp_path)

    def burst() -> None:
        raise OSError("no disk")

    made.sink.commit = burst  # type: ignore[method-assign] # The log has failed.
    with pytest.raises(OSError, match="no disk"):
        made.run()
    assert "step" not in made.sink.story
