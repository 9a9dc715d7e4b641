"""Small trainings, clean ones and broken ones, as different as they come, that alarms are judged by. Nothing here looks at an alarm.

Detectors are developed on the kinds of this package; those of `held_out` were written by somebody who had not seen the detectors.
"""

from .case import CAUSES, CLEAN_GROUPS, GROUPS, RNG_SEEDS, Case
from .clean_courses import DATA, LENGTHS, PRECISION, SCHEDULES
from .clean_losses import LOSSES
from .clean_models import FINE_TUNING, GROWING, MODELS
from .course import COURSE, VALIDATION
from .data_faults import DATA_FAULTS, NUMERICS
from .hardware import GROWTH, HARDWARE
from .held_out import BROKEN as HELD_OUT_BROKEN
from .held_out import CLEAN as HELD_OUT_CLEAN
from .silent import SILENT
from .wiring import WIRING

CLEAN: tuple[Case, ...] = (*LOSSES, *SCHEDULES, *DATA, *PRECISION, *LENGTHS, *MODELS, *FINE_TUNING, *GROWING, *HELD_OUT_CLEAN)
BROKEN: tuple[Case, ...] = (*WIRING, *COURSE, *VALIDATION, *DATA_FAULTS, *NUMERICS, *HARDWARE, *GROWTH, *SILENT, *HELD_OUT_BROKEN)
CASES: tuple[Case, ...] = (*CLEAN, *BROKEN)
"""The manifest: every kind."""

__all__ = ["BROKEN", "CASES", "CAUSES", "CLEAN", "CLEAN_GROUPS", "GROUPS", "RNG_SEEDS", "Case"]
