"""Impossible settings are refused by the name of the key."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from esper.tamiyo.policy_input import PolicySettings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", 2),
        ("window", 33),
        ("window", 5.0),
        ("window", True),
        ("tolerance", 0.0),
        ("tolerance", 1.0),
        ("tolerance", math.nan),
        ("tolerance", "0.1"),
        ("noise", 0.0),
        ("noise", math.nan),
        ("wish", -0.1),
        ("wish", math.nan),
        ("train_epochs", 0),
        ("graft_epochs", -1),
        ("stabilize_epochs", 0),
        ("evaluate_epochs", 0),
        ("fine_tune_epochs", None),
        ("patience", 0),
        ("race", 0),
        ("max_germinations", -1),
        ("alphas", ()),
        ("alphas", (0.5, math.nan)),
        ("alphas", (0.0,)),
        ("alphas", (1.1,)),
        ("alphas", [0.5]),
        ("least_pairs", 1),
        ("needed_z", -1.0),
        ("needed_z", math.nan),
        ("worse", math.inf),
        ("worse", -0.1),
    ],
)
def test_an_impossible_value_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        PolicySettings(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("tolerance", 0.99), ("max_germinations", None), ("max_germinations", 0), ("worse", 0), ("alphas", (1,)), ("wish", 1)],
)
def test_a_possible_value_is_taken(key: str, value: Any) -> None:
    assert getattr(PolicySettings(**{key: value}), key) == value


def test_a_seed_cycle_is_eight_epochs_by_default() -> None:
    assert (PolicySettings().cycle, PolicySettings().settling) == (8, 5)


@pytest.mark.parametrize("key", PolicySettings.model_fields)
def test_no_field_takes_nan(key: str) -> None:
    nan: Any = math.nan

    with pytest.raises(ValidationError, match=key):
        PolicySettings(**{key: nan})
