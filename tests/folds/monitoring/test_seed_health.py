"""Detectors over the rows of health records: which site or seed is in trouble, and since when."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from esper.errors import DataError
from esper.events.kinds.telemetry import SeedHealthMeasured
from esper.folds.monitoring.detectors.detect import DetectorState, open_anomalies
from esper.folds.monitoring.rules import Labels, source_labels
from tests.folds.monitoring.made_up import SETTINGS, Row, detect, followed, health, load, noise, save

SITES: tuple[Row, ...] = (("a", None), ("b", None))
SEEDED: tuple[Row, ...] = (("a", None), ("a", 0), ("b", None))


def places(events: Sequence[SeedHealthMeasured]) -> list[Labels]:
    """What is found in the events, in order."""
    return [source_labels(one.site, one.seed, one.metric, one.detector) for one in followed(events)[1]]


def test_a_gradient_that_vanishes_beside_the_strongest_site_is_found_once() -> None:
    weak = noise(40, level=0.2)
    weak[20:] /= 100
    events = [health(SITES, gradient_variance=(value, 1.0)) for value in weak]
    assert places(events) == [source_labels("a", None, "gradient_variance", "vanishing")]
    assert open_anomalies(followed(events)[0]) == {source_labels("a", None, "gradient_variance", "vanishing")}


def test_gradients_that_shrink_together_do_not_vanish_here() -> None:
    both = noise(40) * np.exp(-np.arange(40))
    assert places([health(SITES, gradient_variance=(value, 2 * value)) for value in both]) == []


def test_one_site_alone_has_nobody_to_be_compared_with() -> None:
    values = [1.0] * 20 + [1e-9] * 20
    assert places([health(SITES[:1], gradient_variance=(value,)) for value in values]) == []


def test_a_gradient_that_comes_back_ends_it() -> None:
    values = [0.2] * 20 + [0.002] * 5 + [0.2] * 5
    state, found = followed([health(SITES, gradient_variance=(value, 1.0)) for value in values])
    assert ([one.detector for one in found], open_anomalies(state)) == (["vanishing"], frozenset())


def test_a_gradient_that_stays_weak_is_the_new_normal() -> None:
    values = [0.2] * 20 + [0.002] * 100
    state, found = followed([health(SITES, gradient_variance=(value, 1.0)) for value in values])
    assert ([one.detector for one in found], open_anomalies(state)) == (["vanishing"], frozenset())


def test_units_that_die_are_found_where_they_die() -> None:
    ratios = [0.1] * 20 + [0.8] * 5
    state, (found,) = followed([health(SITES, dead_neuron_ratio=(0.5, value)) for value in ratios])
    assert (found.detector, found.site, found.value) == ("dead", "b", 0.8)
    assert found.expected == pytest.approx(0.1)
    assert open_anomalies(state) == {source_labels("b", None, "dead_neuron_ratio", "dead")}


def test_units_that_die_slowly_are_found_too() -> None:
    assert [
        dict(key)["site"] for key in places([health(SITES, dead_neuron_ratio=(0.1, value)) for value in np.linspace(0.1, 0.7, 200)])
    ] == ["b"]


@pytest.mark.parametrize("ratios", [[0.6] * 40, [0.0] * 20 + [0.3] * 20, [0.1] * 20 + [0.8] + [0.1] * 20], ids=str)
def test_a_share_that_was_always_high_or_is_low_or_passes_is_no_death(ratios: list[float]) -> None:
    assert places([health(SITES, dead_neuron_ratio=(value, 0.0)) for value in ratios]) == []


def test_units_that_come_back_to_life_end_it() -> None:
    ratios = [0.1] * 20 + [0.8] * 5 + [0.15] * 2
    assert open_anomalies(followed([health(SITES, dead_neuron_ratio=(value, 0.0)) for value in ratios])[0]) == frozenset()


def test_a_variance_that_repeats_itself_is_stuck_and_zero_is_not() -> None:
    varied = noise(20)
    events = [health(SITES, activation_variance=(varied[min(at, 10)], 0.0)) for at in range(20)]
    assert places(events) == [source_labels("a", None, "activation_variance", "stuck")]


def test_values_that_are_not_finite_and_counted_ones_are_found_in_their_row() -> None:
    events = [
        health(SEEDED),
        health(SEEDED, avg_correlation=(0.1, math.nan, 0.1), errors=(0, 3, 0)),
        health(SEEDED, avg_correlation=(0.1, math.nan, 0.1)),
    ]
    assert places(events) == [source_labels("a", 0, "avg_correlation", "nonfinite"), source_labels("a", 0, "errors", "nonfinite")]
    assert open_anomalies(followed(events)[0]) == {source_labels("a", 0, "avg_correlation", "nonfinite")}


def test_limits_are_raised_after_an_adaptation() -> None:
    ratios = [0.1] * 20 + [0.5] * 5
    calm = [health(SITES, dead_neuron_ratio=(value, 0.0)) for value in ratios]
    adapted = [health(SITES, dead_neuron_ratio=(value, 0.0), adapted=5 if at >= 20 else None) for at, value in enumerate(ratios)]
    assert len(places(calm)) == 1
    assert places(adapted) == []


def test_a_seed_begins_anew_after_an_adaptation() -> None:
    before = [health(SEEDED, gradient_variance=(1.0, 0.5, 1.0))] * 20
    after = [health(SEEDED, gradient_variance=(1.0, 1e-6, 1.0), adapted=9)] * 30
    assert places([*before, *after]) == []


def test_a_row_that_is_gone_is_forgotten_and_others_keep_what_is_known_of_them() -> None:
    ratios = [0.1] * 20 + [0.9] * 3
    without = health(SITES, dead_neuron_ratio=(0.1, 0.0))
    events = [health(SEEDED, dead_neuron_ratio=(0.1, value, 0.0)) for value in ratios]
    state, found = followed([*events, without])
    assert ([one.seed for one in found], open_anomalies(state)) == ([0], frozenset())
    moved = [health((("b", None), ("a", None)), dead_neuron_ratio=(0.0, 0.9))] * 2
    assert places([without] * 20 + moved) == [source_labels("a", None, "dead_neuron_ratio", "dead")]


def test_the_state_of_a_thousand_seeds_is_small_and_is_saved_and_loaded() -> None:
    rows = [(f"layer.{index // 5}", None if index % 5 == 0 else index % 5) for index in range(1000)]
    state = DetectorState()
    for at in range(12):
        varied = noise(1000, level=0.3, seed=at).tolist()
        event = health(rows, activation_variance=varied, gradient_variance=varied, dead_neuron_ratio=[float(at > 9)] * 1000)
        state, found = detect(load(save(state)), event.TOPIC, event, SETTINGS)
    assert len(found) == 1000
    assert len(save(state)) < 200_000
    assert save(load(save(state))) == save(state)


@pytest.mark.parametrize("change", [{"table": None}, {"table": "AAAA"}, {"sites": ["a"]}, {"seeds": [None]}, {"table": "%"}])
def test_saved_rows_of_another_size_are_refused(change: dict[str, object]) -> None:
    _, cell = json.loads(save(followed([health(SITES)])[0]))
    cell["state"]["detectors"]["rows"] |= change
    with pytest.raises(DataError):
        load(json.dumps([2, cell]).encode())
