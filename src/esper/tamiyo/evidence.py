"""Confidence from a paired comparison that a seed helps, or that it does not.

The same validation samples (or batch means) are measured without and with a seed: d = loss(without) - loss(with), above 0 where the seed
helps. z = mean(d) / its standard error, both weighted by samples; the confidence that the seed helps is Phi(z)^k, with k the alternatives
of which this is the best: the probability that the best of k that do nothing stays below z (Sidak's correction, k independent tries). The
confidence that it does not help is Phi(-z)^k.
"""

import math

from esper.events.kinds.lifecycle import Evaluation


def phi(z: float) -> float:
    """The standard normal distribution function: the probability of a value below `z`, which may be infinite. NaN gives NaN."""
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


def _z_score(mean: float, standard_error: float) -> float | None:
    """`mean` in standard errors; +-inf where all pairs differ by the same amount, 0 where none differs. None: it is unknown."""
    if math.isnan(standard_error) or not math.isfinite(mean):
        return None
    if standard_error == 0.0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / standard_error


def usable_z(evidence: Evaluation | None, least_pairs: int) -> float | None:
    """The z of `evidence`; None where there is none, where it rests on fewer than `least_pairs` pairs or on a value that is not finite."""
    if evidence is None or evidence.n < least_pairs:
        return None
    return _z_score(evidence.mean, evidence.standard_error)


def confidence(z: float | None, k: int) -> float:
    """Phi(z)^k, in 0..1, never NaN; 0 where z is unknown. Pass -z for the confidence that the seed does not help."""
    return 0.0 if z is None else phi(z) ** max(1, k)


def evidence_in_words(evidence: Evaluation, least_pairs: int, k: int | None = None) -> str:
    """The comparison in words, like `0.2715 against 0.2733 (-0.7 %), n 350, z 4.1, best of 3 tried`."""
    words = f"{evidence.loss_with:.4g} against {evidence.loss_without:.4g} ({gain_in_words(evidence)}), n {evidence.n}"
    if evidence.n < least_pairs:
        return f"{words}: fewer than {least_pairs} pairs give no confidence"
    z = usable_z(evidence, least_pairs)
    words += ", z unknown" if z is None else f", z {z:.1f}"
    tried = evidence.k if k is None else k
    return f"{words}, best of {tried} tried" if tried > 1 else words


def gain_in_words(evidence: Evaluation) -> str:
    """The change of the loss by the seed, in percent of the loss without it, like `-0.7 %`; as a difference where that has no meaning."""
    if not math.isfinite(evidence.mean):
        return "difference unknown"
    without = evidence.loss_without
    if not math.isfinite(without) or without == 0.0:
        return f"{-evidence.mean:+.4g}"
    return f"{-100.0 * evidence.mean / abs(without):+.1f} %"


def epochs(count: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count} epoch" if count == 1 else f"{count} epochs"
