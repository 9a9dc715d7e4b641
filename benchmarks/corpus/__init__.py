"""Small trainings, clean ones and broken ones, as different as they come, that alarms are judged by. Nothing here looks at an alarm."""

from .case import CAUSES, CLEAN_GROUPS, GROUPS, RNG_SEEDS, Case
from .clean_losses import LOSSES
from .wiring import WIRING

CASES: tuple[Case, ...] = (*LOSSES, *WIRING)
"""The manifest: every kind."""

__all__ = ["CASES", "CAUSES", "CLEAN_GROUPS", "GROUPS", "RNG_SEEDS", "Case"]
