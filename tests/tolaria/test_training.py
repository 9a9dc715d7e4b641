"""Every setting of the trainer is checked when it is made, and the message names it."""

import math

import pytest
from pydantic import ValidationError

from esper.tolaria.training import TrainerSettings

BAD_TRAINER: list[tuple[str, object]] = [
    ("epochs", 0),
    ("accumulate", 0),
    ("checkpoint_every", 0),
    ("keep_checkpoints", 0),
    ("measure_every", 0),
    ("epoch_steps", 0),
    ("patience", 0),
    ("clip", 0.0),
    ("clip", -1.0),
    ("clip", math.nan),
    ("clip", math.inf),
    ("explosion_factor", 1.0),
    ("explosion_factor", math.nan),
    ("explosion_factor", math.inf),
    ("max_rollbacks", -1),
    ("digest", "some"),
    ("threads", 0),
    ("epochs", 2.0),
    ("epochs", True),
]


@pytest.mark.parametrize(("name", "value"), BAD_TRAINER)
def test_a_bad_trainer_setting_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        TrainerSettings.model_validate({name: value})


def test_what_may_be_absent_may_be_absent() -> None:
    settings = TrainerSettings(clip=None, epoch_steps=None, patience=None)
    assert (settings.clip, settings.epoch_steps, settings.patience) == (None, None, None)


def test_the_least_allowed_values_are_allowed() -> None:
    counts = ("epochs", "accumulate", "epoch_steps", "patience", "checkpoint_every", "keep_checkpoints", "measure_every")
    assert all(getattr(TrainerSettings(**{name: 1}), name) == 1 for name in counts)
    assert TrainerSettings(max_rollbacks=0).max_rollbacks == 0
