"""The settings of the plateau policy, checked when they are made. They are recorded in RunStarted, never read from anywhere here."""

import math
from dataclasses import dataclass, fields

from esper.errors import SettingsError
from esper.events.kinds.epoch import KEPT_LOSSES


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """What the plateau policy goes by; the defaults are those measured on digits and mnist1d.

    The limits of the gate are not here: a policy sees those in force as `SystemState.gate`.
    """

    window: int = 5
    """The last validation losses that are compared with all before them, 3 to 32: a line is fitted through them, and so many are kept."""

    tolerance: float = 0.15
    """A plateau: the best loss of the window is less than this share better than the best before it. Between 0 and 1, both excluded."""

    noise: float = 0.005
    """The least standard deviation that a loss is believed to have around its trend, as a share of it."""

    wish: float = 0.5
    """A germination is wished for from this confidence on, also where the gate will refuse it. 0 to 1."""

    train_epochs: int = 3
    """Epochs that a seed learns in isolation before it may be grafted."""

    graft_epochs: int = 3
    """Epochs over which alpha goes from 0 to 1."""

    stabilize_epochs: int = 1
    """Epochs that the host settles with the seed frozen."""

    evaluate_epochs: int = 1
    """Epochs before a grafted seed's worth is judged."""

    fine_tune_epochs: int = 10
    """Epochs that a kept seed trains with the host before it is part of it for good."""

    patience: int = 3
    """A stage that has lasted this many times its planned epochs ends: the seed is removed."""

    race: int = 3
    """Blueprints that are tried at once at one site."""

    max_germinations: int | None = None
    """Races a run may start; None: as many as the limits allow."""

    alphas: tuple[float, ...] = (0.25, 0.5, 1.0)
    """The alphas of a shadow validation, each above 0 and at most 1. Whoever measures reads them; the policy sees what was best."""

    least_pairs: int = 8
    """With fewer pairs of losses than this there is no confidence in a difference."""

    needed_z: float = 1.6
    """A grafted seed whose gain is below this many standard errors is not shown to be needed (one-sided 5 %)."""

    worse: float = 0.05
    """A seed that is not shown to be needed goes when the loss is more than this share above that before its graft."""

    def __post_init__(self) -> None:
        """Raises SettingsError, naming the key, for a value that is not finite or not in its range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "alphas":
                _check_alphas(value)
            elif field.name in _COUNTS:
                if not (value is None and field.name == "max_germinations"):
                    _check_count(field.name, value, _COUNTS[field.name])
            else:
                _check_number(field.name, value, *_NUMBERS[field.name])
        if self.window > KEPT_LOSSES:
            raise SettingsError(f"window: expected at most {KEPT_LOSSES}, for so many losses are kept, got {self.window}")

    @property
    def cycle(self) -> int:
        """Epochs from the first of isolated training to the end of the evaluation."""
        return self.train_epochs + self.settling

    @property
    def settling(self) -> int:
        """Epochs from a graft to the end of the evaluation."""
        return self.graft_epochs + self.stabilize_epochs + self.evaluate_epochs


_COUNTS = {
    "window": 3,
    "train_epochs": 1,
    "graft_epochs": 1,
    "stabilize_epochs": 1,
    "evaluate_epochs": 1,
    "fine_tune_epochs": 1,
    "patience": 1,
    "race": 1,
    "max_germinations": 0,
    "least_pairs": 2,
}
_NUMBERS: dict[str, tuple[float, float, str]] = {
    "tolerance": (math.ulp(0.0), 1 - math.ulp(0.5), "a number above 0 and below 1"),
    "noise": (math.ulp(0.0), 1.0, "a number above 0 and at most 1"),
    "wish": (0.0, 1.0, "a number from 0 to 1"),
    "needed_z": (0.0, 100.0, "a number from 0 to 100"),
    "worse": (0.0, math.inf, "a finite number of 0 or more"),
}


def _check_count(key: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError(f"{key}: expected a whole number of {least} or more, got {value!r}")


def _check_number(key: str, value: object, low: float, high: float, expected: str) -> None:
    """NaN passes no comparison, so it is refused with the rest."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and isinstance(value, int | float) and low <= value <= high and math.isfinite(value)):
        raise SettingsError(f"{key}: expected {expected}, got {value!r}")


def _check_alphas(value: object) -> None:
    if not isinstance(value, tuple) or not value:
        raise SettingsError(f"alphas: expected a tuple of one or more numbers, got {value!r}")
    for alpha in value:
        _check_number("alphas", alpha, math.ulp(0.0), 1.0, "numbers above 0 and at most 1")
