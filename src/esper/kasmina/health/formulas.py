"""Formulas of health: statistics of a site or a seed at one step, from samples.

A measurement takes at most 256 rows and 64 features of an output, strided, so that its cost does not grow with the layer (full tensors
would cost 58 ms for a convolution of 64x32x32: measured). A row of a Linear is one position of its leading dimensions, of a
convolution one place of one sample; the stride through the rows shares no factor with the image, or one column would be seen for all.

Formulas, over a sample S of R rows and F units (tests compare each with a slow float64 reference):
  activation_variance   mean over units of mean over rows of (S - mean over rows)^2
  gradient_variance     the same of dL/dy per sample: the gradient times the batch's size, the loss being a mean
  dead_neuron_ratio     share of units whose mean |a| is at most tau = 0.025 of the layer's mean |a|, a after the activation function
                        (Sokar et al. 2023, "The Dormant Neuron Phenomenon in Deep Reinforcement Learning", definition 3.1)
  avg_correlation       (m - f) / (1 - f): m = mean |r| over pairs of units that vary, f = sqrt(2 / (pi R)), what m is for independent units
  effective_rank        exp(entropy of the singular values of S - mean over rows, made to sum to 1)
                        (Roy and Vetterli 2007, "The Effective Rank", equations 3-4)
  gradient_pressure     mean over samples of the norm of dL/dy per sample, over whole samples, at most 2^17 elements a measurement
  health_score          0 where recovering, or where nothing varies or a value is not finite;
                        else sqrt((1 - dead_neuron_ratio) * (1 - max(0, avg_correlation))); what was not measured counts as 0 there
"""

import math

import torch
from torch import Tensor

ROWS = 256
UNITS = 64
_TAU = 0.025
_PRESSURE_ELEMENTS = 1 << 17


def sample(y: Tensor, *, channels_first: bool = False) -> Tensor:
    """(rows, units): at most 256 rows and 64 units of an output, copied, in float32. Channels of an image are its units.

    `channels_first`: so are those of a signal, (samples, channels, length), which a Linear's output does not tell.
    """
    y = y.unsqueeze(-1) if channels_first and y.dim() == 3 else y
    rows = y.reshape(-1, y.shape[-1]) if y.dim() != 4 else y.permute(0, 2, 3, 1)
    units = slice(None, None, math.ceil(rows.shape[-1] / UNITS))
    if y.dim() != 4:
        return rows[:: _stride(rows.shape[0], 1), units].to(torch.float32, copy=True)
    batch, height, width = rows.shape[:3]
    total = batch * height * width
    index = torch.arange(0, total, _stride(total, height * width), device=y.device)
    return rows[index // (height * width), index // width % height, index % width][:, units].float()


def _stride(total: int, period: int) -> int:
    """The least stride that takes at most `ROWS` of `total` and shares no factor with `period`."""
    stride = math.ceil(total / ROWS)
    while math.gcd(stride, period) > 1:
        stride += 1
    return stride


def variance(S: Tensor) -> Tensor:
    """0-dim: mean over units of the variance over rows. (`var_mean(dim=0)` is slow on CPU.)"""
    return (S - S.mean(0)).square().mean()


def dead_ratio(A: Tensor) -> Tensor:
    """0-dim: share of units whose mean |a| is at most tau of the layer's."""
    each = A.abs().mean(0)
    return (each <= _TAU * each.mean()).float().mean()


def correlation(S: Tensor) -> Tensor:
    """0-dim: debiased mean |r| over pairs of units; NaN if fewer than two vary. Units that do not vary are in no pair."""
    centred = S - S.mean(0)
    size = centred.square().sum(0).sqrt()
    varies = size > 1e-6 * size.max()
    unit = torch.where(varies, centred / size, torch.zeros_like(centred))
    count = varies.sum()
    total = (unit.T @ unit).abs().sum() - count
    floor = math.sqrt(2 / (math.pi * S.shape[0]))
    # Equal units come out a rounding error above 1, and the health score would be the root of a negative number.
    return ((total / (count * (count - 1)) - floor) / (1 - floor)).clamp(max=1.0)


def effective_rank(S: Tensor) -> Tensor:
    """0-dim: exp of the entropy of the singular values of the centred sample; NaN where nothing varies."""
    values = torch.linalg.svdvals(S - S.mean(0))
    share = values / values.sum()
    entropy: Tensor = torch.special.entr(share).sum()
    return entropy.exp()


def pressure(gradient: Tensor) -> Tensor:
    """0-dim: mean over (strided) samples of the norm of the gradient at an output, the first dimension being the samples."""
    each = gradient.reshape(1, -1) if gradient.dim() == 1 else gradient.reshape(gradient.shape[0], -1)
    kept = max(1, _PRESSURE_ELEMENTS // each.shape[1])
    return each[:: math.ceil(each.shape[0] / kept)].float().square().sum(1).sqrt().mean()


def health_score(variance: float | None, dead: float | None, correlated: float | None, recovering: bool) -> float | None:
    """0..1, the formula above; None where nothing was measured."""
    if recovering:
        return 0.0
    if variance is None:
        return None
    parts = [value for value in (variance, dead, correlated) if value is not None]
    if not all(math.isfinite(value) for value in parts) or variance == 0.0:
        return 0.0
    return math.sqrt((1 - (dead or 0.0)) * (1 - max(0.0, correlated or 0.0)))
