"""Settings that no detector can work with are refused by name."""

import math

import pytest

from esper.errors import SettingsError
from esper.folds.watching.detectors import DetectorSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spike_spreads", math.nan),
        ("spike_factor", 0.5),
        ("explosion_factor", math.inf),
        ("least_spread", 0.0),
        ("dead_ratio", -1.0),
        ("accepted_after", 0),
        ("losses", (1,)),
        ("gradients", ("loss",)),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=f"detectors.{name}"):
        DetectorSettings(**{name: value})  # type: ignore[arg-type] # what a settings file might say
