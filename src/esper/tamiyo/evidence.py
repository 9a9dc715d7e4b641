"""Confidence from a paired comparison that a seed helps, or that it does not.

The same parts of the validation data are measured without and with a seed: d = loss(without) - loss(with), above 0 where the seed helps;
z = mean(d) / its standard error, both weighted by samples. With T the distribution function of Student's t for n - 1 degrees of freedom, n
pairs, the confidence that the seed helps is T(z)^(k l (l + 1)), and that it does not help T(-z)^(k l (l + 1)): k alternatives were tried of
which this is the best, and this is the l-th look at the seed in its stage.

T is right for mean gains that are near normal. Mostly small gains with now and then a large loss are not: as long as few large losses are
among the pairs the mean is too high and its error too small. So z is taken nearer to 0 by Hall's transformation (1992, J. R. Stat. Soc. B
54, 221), z + s z^2 / 3 + s^2 z^3 / 27 + s / 6 with s the skewness of the mean, where that is nearer; never away from 0, for a tail that is
heavy on both sides has a skewness by chance. A large loss that is not among the pairs at all shows in no number.

**What is promised.** Of seeds without effect at most the share 1 - c ever passes a limit c, however often they are looked at. T(z)^k is the
probability that the best of k such seeds stays below z (Sidak 1967, J. Am. Stat. Assoc. 62, 626: exact where they are independent, and too
small where they rise and fall together, as alphas and looks do). Each look spends the share 1 / (l (l + 1)) of the promise, a half, a
sixth, a twelfth, which add up to 1: so the product over all looks of c^share is c. Spending over looks is Lan and DeMets' (1983, Biometrika
70, 659). Their boundaries for data that accumulate do not hold here: the data stay the same, the seed changes, and how looks hang together
is not known. Equal shares of the planned looks would need their number, and lose more at the first look, at which most seeds that help a
lot are found (`benchmarks/races.py`).
"""

import math

from scipy.special import stdtr

from esper.events.kinds.lifecycle import Evaluation


def phi(z: float) -> float:
    """The standard normal distribution function: the probability of a value below `z`, which may be infinite. NaN gives NaN."""
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


def _z_score(mean: float, standard_error: float, skewness: float = 0.0) -> float | None:
    """`mean` in standard errors, nearer to 0 where it is skewed; None: it is unknown.

    It is +-inf where all pairs differ by the same amount, 0 where none differs.
    """
    if math.isnan(standard_error) or not math.isfinite(mean):
        return None
    if standard_error == 0.0:
        return math.copysign(math.inf, mean) if mean else 0.0
    z = mean / standard_error
    unskewed = z + skewness * z * z / 3.0 + skewness * skewness * z * z * z / 27.0 + skewness / 6.0
    return math.copysign(max(0.0, min(abs(z), math.copysign(1.0, z) * unskewed)), z)


def usable_z(evidence: Evaluation | None, least_pairs: int) -> float | None:
    """The z of `evidence`; None where there is none, where it rests on fewer than `least_pairs` pairs or on a value that is not finite."""
    if evidence is None or evidence.n < least_pairs:
        return None
    return _z_score(evidence.mean, evidence.standard_error, evidence.skewness)


def confidence(evidence: Evaluation | None, least_pairs: int, *, tried: int | None = None, harm: bool = False) -> float:
    """Confidence that the seed helps, or with `harm` that it does not: in 0..1, never NaN; 0 where z is unknown.

    `tried` alternatives, where there are more than the evidence says.
    """
    z = usable_z(evidence, least_pairs)
    if evidence is None or z is None:
        return 0.0
    k, look = max(1, evidence.k if tried is None else tried), max(1, evidence.look)
    return float(stdtr(evidence.n - 1, -z if harm else z)) ** (k * look * (look + 1))


def evidence_in_words(evidence: Evaluation, least_pairs: int, k: int | None = None) -> str:
    """The comparison in words, like `0.2715 against 0.2733 (-0.7 %), n 350, z 4.1, best of 3 tried`."""
    words = f"{evidence.loss_with:.4g} against {evidence.loss_without:.4g} ({gain_in_words(evidence)}), n {evidence.n}"
    if evidence.n < least_pairs:
        return f"{words}: fewer than {least_pairs} pairs give no confidence"
    z = usable_z(evidence, least_pairs)
    words += ", z unknown" if z is None else f", z {z:.1f}{_skewed_in_words(evidence, z)}"
    tried = evidence.k if k is None else k
    words += f", best of {tried} tried" if tried > 1 else ""
    return f"{words}, look {evidence.look}" if evidence.look > 1 else words


def _skewed_in_words(evidence: Evaluation, z: float) -> str:
    """The z without regard to the skewness, like ` (4.1 but for few large losses)`; empty where that reads the same."""
    plain = _z_score(evidence.mean, evidence.standard_error)
    if plain is None or f"{plain:.1f}" == f"{z:.1f}":
        return ""
    return f" ({plain:.1f} but for few large {'losses' if plain > 0.0 else 'gains'})"


def gain_in_words(evidence: Evaluation) -> str:
    """The change of the loss by the seed, in percent of the loss without it, like `-0.7 %`; as a difference where that has no meaning."""
    if not math.isfinite(evidence.mean):
        return "difference unknown"
    without = evidence.loss_without
    if not math.isfinite(without) or without == 0.0:
        return f"{-evidence.mean:+.4g}"
    return f"{-100.0 * evidence.mean / abs(without):+.1f} %"
