"""Plateau detection: the validation loss has stopped falling, with what confidence.

With v the validation losses since the last graft cycle and W the window: r = 1 - min(last W) / min(all before) is how much better the
window is; sigma = max(noise, residual standard deviation of log v over the window around its line, W - 2 degrees of freedom) is how far
a single loss is from its trend, as a share. confidence = Phi((tolerance - r) / sigma); urgency = clip(1 - r / (2 tolerance), 0, 1).
Losses that are not all finite and above 0 have no ratio: the confidence is 0 then, and the reason says so.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from esper.tamiyo.evidence import phi
from esper.tamiyo.settings import PolicySettings


class Plateau(NamedTuple):
    """Plateau of the loss; both numbers are in 0..1, never NaN."""

    confidence: float
    urgency: float
    reason: str


def plateau(losses: tuple[float, ...], settings: PolicySettings) -> Plateau:
    """Confidence that `losses` (oldest first) have stopped falling, and urgency of growth.

    Of the losses before the window only the lowest matters, or one that has no logarithm.
    """
    window = settings.window
    if len(losses) <= window:
        return Plateau(0.0, 0.0, f"{len(losses)} of the {window + 1} validation losses that show a plateau")
    if not all(math.isfinite(loss) and loss > 0.0 for loss in losses):
        return Plateau(0.0, 0.0, "a plateau needs validation losses that are finite and above 0")
    last = np.asarray(losses[-window:], dtype=np.float64)
    improved = 1.0 - float(last.min()) / min(losses[:-window])
    sigma = max(settings.noise, _residual_deviation(np.log(last)))
    confidence = phi((settings.tolerance - improved) / sigma)
    urgency = min(1.0, max(0.0, 1.0 - improved / (2.0 * settings.tolerance)))
    return Plateau(confidence, urgency, _words(improved, settings))


def _words(improved: float, settings: PolicySettings) -> str:
    if improved < 0.0:
        return f"best of {settings.window} is {-100.0 * improved:.1f} % worse than before"
    sign = "<" if improved < settings.tolerance else ">="
    return f"best of {settings.window} improved {100.0 * improved:.1f} % {sign} {100.0 * settings.tolerance:g} %"


def _residual_deviation(values: npt.NDArray[np.float64]) -> float:
    """The standard deviation of `values` around their least-squares line over 0, 1, 2 ...; at least 3 values."""
    time = np.arange(len(values), dtype=np.float64) - (len(values) - 1) / 2.0
    centred = values - values.mean()
    residual = centred - time * (time @ centred) / (time @ time)
    return float(np.sqrt(residual @ residual / (len(values) - 2)))
