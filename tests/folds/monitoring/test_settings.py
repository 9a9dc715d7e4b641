"""What no run can be watched by is refused by name when the settings are made."""

import math

import pytest
from pydantic import ValidationError

from esper.events.fields import Part
from esper.folds.monitoring.alerting import AlertSettings
from esper.folds.monitoring.dead_or_idle import SilenceSettings
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.trends import TrendSettings
from esper.folds.monitoring.windows import WindowSettings

IMPOSSIBLE: list[tuple[type[Part], str, object]] = [
    (WindowSettings, "length_s", 0),
    (WindowSettings, "length_s", 86_401),
    (WindowSettings, "length_s", 15.0),
    (WindowSettings, "metrics", 0),
    (TrendSettings, "every_s", 0),
    (TrendSettings, "points", 257),
    (TrendSettings, "points", 7),
    (TrendSettings, "least", 33),
    (TrendSettings, "deviations", 0.0),
    (TrendSettings, "plateau_share", -0.1),
    (TrendSettings, "limits", (("disk_free_ratio", math.inf),)),
    (TrendSettings, "limits", (("disk_free", 0.0),)),
    (TrendSettings, "limits", (("*", 0.0),)),
    (AlertSettings, "most", 1),
    (SilenceSettings, "dead_after_s", 19.9),
    (SilenceSettings, "dead_after_s", math.nan),
    (SilenceSettings, "idle_after_s", math.inf),
    (SilenceSettings, "idle_after_s", 0.0),
    (DetectorSettings, "spike_spreads", math.nan),
    (DetectorSettings, "spike_spreads", True),
    (DetectorSettings, "spike_spreads", 9.5),
    (DetectorSettings, "spike_factor", 0.5),
    (DetectorSettings, "explosion_factor", math.inf),
    (DetectorSettings, "least_spread", 0.0),
    (DetectorSettings, "dead_ratio", 1.1),
    (DetectorSettings, "stuck_values", 1),
    (DetectorSettings, "accepted_after", 0),
    (DetectorSettings, "losses", (1,)),
    (DetectorSettings, "losses", ("gradient_norm",)),
    (DetectorSettings, "losses", ("los",)),
    (DetectorSettings, "losses", ("loss", "loss")),
    (DetectorSettings, "off", ("spikes",)),
    (DetectorSettings, "gradients", ("loss",)),
]


@pytest.mark.parametrize(("kind", "name", "value"), IMPOSSIBLE)
def test_an_impossible_setting_is_refused_by_name(kind: type[Part], name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        kind.model_validate({name: value})


@pytest.mark.parametrize("name", ["disk_free_ratio", "gpu.*.power_watts", "gpu.1.power_watts", "validation.*", "esper_custom_queue_*"])
def test_a_metric_or_a_family_of_them_may_have_a_limit(name: str) -> None:
    assert TrendSettings(limits=((name, 1.0),)).limits == ((name, 1.0),)
