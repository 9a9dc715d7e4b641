"""Every setting of the trainer is checked when it is made, and the message names it."""

import math

import pytest

from esper.errors import SettingsError
from esper.tolaria.settings import GrowthSchedule, TrainerSettings

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
]
BAD_SCHEDULE: list[tuple[str, object]] = [
    ("train_epochs", 0),
    ("graft_epochs", 0),
    ("fine_tune_epochs", 0),
    ("alphas", ()),
    ("alphas", (0.5, 0.0)),
    ("alphas", (1.1,)),
    ("alphas", (math.nan,)),
    ("compile_wait_s", 0.0),
    ("compile_wait_s", math.nan),
    ("compile_wait_s", math.inf),
]


@pytest.mark.parametrize(("name", "value"), BAD_TRAINER)
def test_a_bad_trainer_setting_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"setting {name}: expected .*, got {value!r}"):
        TrainerSettings(**{name: value})  # type: ignore[arg-type] # That is what is tested.


@pytest.mark.parametrize(("name", "value"), BAD_SCHEDULE)
def test_a_bad_schedule_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"setting {name}: expected "):
        GrowthSchedule(**{name: value})  # type: ignore[arg-type] # That is what is tested.


def test_what_may_be_absent_may_be_absent() -> None:
    settings = TrainerSettings(clip=None, epoch_steps=None, patience=None)
    assert (settings.clip, settings.epoch_steps, settings.patience) == (None, None, None)


def test_the_least_allowed_values_are_allowed() -> None:
    counts = ("epochs", "accumulate", "epoch_steps", "patience", "checkpoint_every", "keep_checkpoints", "measure_every")
    assert all(getattr(TrainerSettings(**{name: 1}), name) == 1 for name in counts)  # type: ignore[arg-type] # All of them count.
    assert TrainerSettings(max_rollbacks=0).max_rollbacks == 0
    assert GrowthSchedule(train_epochs=1, graft_epochs=1, fine_tune_epochs=1, alphas=(1.0,)).alphas == (1.0,)
