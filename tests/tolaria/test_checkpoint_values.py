"""Plain values come back from JSON exactly as they were, types and all."""

import json
import math
from collections import Counter

import pytest
import torch

from esper.errors import DataError
from esper.tolaria.checkpoint_files import plain_from_json, plain_to_json

VALUES: list[object] = [
    None,
    True,
    3,
    0.1,
    -math.inf,
    "text",
    [1, [2.5, None]],
    (0.9, 0.999),
    {"lr": 0.1, "betas": (0.9, 0.999)},
    {30: 1, 60: 2},
    {"map": 1, "tuple": [2]},
    Counter({30: 1, 45: 2}),
    [{"params": [0, 1]}],
    {},
    (),
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_comes_back_with_its_type(value: object) -> None:
    back = plain_from_json(json.loads(json.dumps(plain_to_json(value, "it"), allow_nan=False)))
    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back() -> None:
    back = plain_from_json(plain_to_json([math.nan], "it"))
    assert isinstance(back, list)
    assert math.isnan(back[0])


@pytest.mark.parametrize("value", [torch.zeros(1), lambda: None, {"inner": (1, {2})}])
def test_what_is_not_plain_is_refused_by_name(value: object) -> None:
    with pytest.raises(DataError, match=r"the scheduler's state holds a (Tensor|function|set)"):
        plain_to_json(value, "the scheduler's state")
