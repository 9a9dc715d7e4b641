"""Small trainings, clean ones and broken ones, as different as they come, that alarms are judged by. Nothing here looks at an alarm."""

from .case import CAUSES, CLEAN_GROUPS, GROUPS, RNG_SEEDS, Case
from .clean_courses import DATA, LENGTHS, PRECISION, SCHEDULES
from .clean_losses import LOSSES
from .clean_models import FINE_TUNING, GROWING, MODELS
from .course import COURSE, VALIDATION
from .data_faults import DATA_FAULTS, NUMERICS
from .hardware import GROWTH, HARDWARE
from .silent import SILENT
from .wiring import WIRING

CLEAN: tuple[Case, ...] = (*LOSSES, *SCHEDULES, *DATA, *PRECISION, *LENGTHS, *MODELS, *FINE_TUNING, *GROWING)
BROKEN: tuple[Case, ...] = (*WIRING, *COURSE, *VALIDATION, *DATA_FAULTS, *NUMERICS, *HARDWARE, *GROWTH, *SILENT)
CASES: tuple[Case, ...] = (*CLEAN, *BROKEN)
"""The manifest: every kind."""

__all__ = ["BROKEN", "CASES", "CAUSES", "CLEAN", "CLEAN_GROUPS", "GROUPS", "RNG_SEEDS", "Case"]
