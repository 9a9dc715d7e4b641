"""A batch that comes again and again, epochs in one order, and data that are gone."""

from collections.abc import Sequence

import numpy as np

from esper.folds.monitoring.detectors.batches import SeenBatches, step_batches
from esper.folds.monitoring.detectors.validation_loss import Epochs, open_of, step_samples
from esper.folds.monitoring.measurements import Measurements
from tests.folds.monitoring.made_up import SETTINGS

ORDERED = [f"{number:012x}" for number in range(10)]


def found(epochs: Sequence[Sequence[str]]) -> list[str]:
    """The detectors that find something in epochs of batches, in records of three steps."""
    steps = [(number, sample) for epoch in epochs for number, sample in enumerate(epoch, start=1)]
    batches, names = SeenBatches(), list[str]()
    for first in range(0, len(steps), 3):
        read = Measurements(None, {}, {}, None, None, None, tuple(steps[first : first + 3]))
        batches, begun = step_batches(batches, read, SETTINGS)
        names += [one.detector for one in begun]
    return names


def shuffled(epochs: int) -> list[list[str]]:
    random = np.random.default_rng(0)
    return [random.permutation(ORDERED).tolist() for _ in range(epochs)]


def test_batches_that_are_shuffled_are_no_anomaly() -> None:
    assert found(shuffled(8)) == []


def test_the_very_same_batch_again_and_again_is_found_also_over_the_end_of_an_epoch() -> None:
    assert found([*shuffled(2), [*ORDERED[:6], *("ab" * 6,) * 4], ["ab" * 6] * 10]) == ["repeated"]


def test_one_batch_an_epoch_is_all_data_and_repeats_nothing() -> None:
    assert found([["ab" * 6]] * 40) == []


def test_three_epochs_in_the_same_order_are_not_shuffled() -> None:
    assert found([*shuffled(2), *[ORDERED] * 5]) == ["unshuffled"]


def test_two_epochs_on_clearly_fewer_samples_are_shrunk_until_they_are_back() -> None:
    epochs, seen = Epochs(), list[tuple[int, bool]]()
    for number, samples in enumerate((640, 640, 480, 640, 480, 480, 480, 640)):
        read = Measurements(None, {"train.samples": np.array([float(samples)])}, {}, None, None, None)
        epochs, begun = step_samples(epochs, read, SETTINGS)
        seen += [(number, bool(open_of(epochs)))] if begun or number == 7 else []
    assert seen == [(5, True), (7, False)]
