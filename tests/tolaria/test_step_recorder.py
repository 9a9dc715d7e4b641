"""A span of steps is read once and becomes one record."""

import math

import pytest
import torch

from esper.events.fields import float32_column
from esper.tolaria.step_recorder import StepRecorder, StepResult, sample_of


def step(number: int, loss: float, *, samples: int = 5, accuracy: float = 0.5) -> StepResult:
    metrics = {"accuracy": torch.tensor(accuracy)}
    sample = sample_of((torch.full((samples, 3), float(number)), torch.arange(samples)))
    return StepResult(
        number, torch.tensor(loss), torch.tensor(0.1), metrics, samples, 0.002, 0.001, batch=max(1, number - 6), sample=sample
    )


def recorded(*steps: StepResult) -> StepRecorder:
    recorder = StepRecorder()
    for one in steps:
        recorder.add(one)
    return recorder


def test_the_numbers_of_a_span_are_those_of_its_steps_in_order() -> None:
    recorder = recorded(step(7, 0.25), step(8, math.inf, samples=2, accuracy=1.0))
    assert len(recorder) == 2
    span = recorder.end_span()
    assert (span.losses, span.metrics) == ([0.25, math.inf], {"accuracy": [0.5, 1.0]})
    assert span.norms == pytest.approx([0.1, 0.1])
    assert [(one.step, one.samples) for one in span.steps] == [(7, 5), (8, 2)]
    assert (len(recorder), recorder.samples, recorder.optimizer_steps) == (0, 7, 2)


def test_a_loss_in_double_precision_stays_in_double_precision() -> None:
    exact = StepResult(1, torch.tensor(1 / 3, dtype=torch.float64), torch.tensor(0.1), {}, 5, 0.0, 0.0, 1, None)
    assert recorded(exact).end_span().losses == [1 / 3]


def test_the_record_of_a_span_has_a_column_entry_a_step() -> None:
    record = recorded(step(7, 0.25), step(8, 0.5)).end_span().record(learning_rates=(0.1, 0.2), live_seeds=3, last_adaptation_step=4)
    assert (record.steps.step, record.steps.loss) == ((7, 8), (0.25, 0.5))
    assert record.steps.gradient_norm == float32_column([0.1, 0.1]) == (0.1, 0.1)
    assert (record.steps.step_latency_ms, record.steps.data_wait_ms) == ((2.0, 2.0), (1.0, 1.0))
    assert record.metrics == {"accuracy": (0.5, 0.5)}
    assert (record.learning_rates, record.live_seeds, record.last_adaptation_step) == ((0.1, 0.2), 3, 4)
    assert record.memory_bytes is not None
    assert record.memory_bytes > 1_000_000


def test_throughput_is_of_all_samples_in_the_span() -> None:
    recorder = recorded(step(1, 0.5, samples=1000), step(2, 0.5, samples=500))
    recorder._since, recorder._added = 10.0, 13.0
    assert recorder.end_span().record(learning_rates=(), live_seeds=0, last_adaptation_step=None).samples_per_s == 500.0


def test_a_record_names_the_batch_of_each_step_and_equal_batches_have_equal_samples() -> None:
    record = recorded(step(7, 0.25), step(8, 0.5)).end_span().record(learning_rates=(), live_seeds=0, last_adaptation_step=None)
    again = recorded(step(7, 0.1)).end_span().record(learning_rates=(), live_seeds=0, last_adaptation_step=None)
    assert record.batches is not None
    assert again.batches is not None
    assert record.batches.number == (1, 2)
    assert record.batches.sample[0] == again.batches.sample[0] != record.batches.sample[1]


@pytest.mark.parametrize(
    ("batch", "other"),
    [
        ((torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])), (torch.zeros(4, 2), torch.tensor([1, 1, 0, 1]))),
        ({"text": torch.tensor([[1, 2]])}, {"text": torch.tensor([[1, 3]])}),
        (torch.ones(100, 100, dtype=torch.bfloat16), torch.zeros(100, 100, dtype=torch.bfloat16)),
        ([torch.ones(4, 2).t(), ["a"]], [2 * torch.ones(4, 2).t(), ["a"]]),
    ],
)
def test_batches_of_any_shape_are_told_apart(batch: object, other: object) -> None:
    first, second = sample_of(batch), sample_of(other)
    assert first is not None
    assert second is not None
    assert [len(part) for part in first] == [32, 32]
    assert not all(torch.equal(one, another) for one, another in zip(first, second, strict=True))


def test_a_batch_without_a_dense_tensor_has_no_sample() -> None:
    assert sample_of(["a", 3]) is None
    assert sample_of(torch.eye(3).to_sparse()) is None
    bare = StepResult(1, torch.tensor(0.5), torch.tensor(0.1), {}, 5, 0.0, 0.0, 1, None)
    assert recorded(bare).end_span().record(learning_rates=(), live_seeds=0, last_adaptation_step=None).batches is None
