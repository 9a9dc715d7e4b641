"""The half of the corpus that is held out: kinds that were written without knowledge of the detectors."""

from dataclasses import replace

from ..case import Case
from .clean_data import DATA
from .clean_losses import LOSSES
from .clean_models import MODELS
from .clean_schedules import LENGTHS, PRECISION, SCHEDULES
from .clean_tuning import FINE_TUNING, GROWING
from .course import COURSE
from .data_faults import DATA_FAULTS
from .hardware import GROWTH, HARDWARE
from .numerics import NUMERICS
from .validation import VALIDATION
from .wiring import WIRING

_CLEAN: tuple[Case, ...] = (*LOSSES, *SCHEDULES, *DATA, *PRECISION, *LENGTHS, *MODELS, *FINE_TUNING, *GROWING)
_BROKEN: tuple[Case, ...] = (*WIRING, *COURSE, *VALIDATION, *DATA_FAULTS, *NUMERICS, *HARDWARE, *GROWTH)
CLEAN = tuple(replace(case, half="held_out") for case in _CLEAN)
BROKEN = tuple(replace(case, half="held_out") for case in _BROKEN)

__all__ = ["BROKEN", "CLEAN"]
