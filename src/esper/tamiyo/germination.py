"""Germination: on a plateau of the validation loss, a race of blueprints at the site with the largest gradient pressure.

A germination is decided at most once per epoch's end, and only when nothing rules it out and the plateau is at least half likely
(`wish`). Where the gate will pass it, it is one decision per candidate, at most `race` and as many as the gate's cap allows; where the
gate will refuse it (confidence, urgency, frequency, cooldown, cap), it is the first candidate's alone, so that the refusal is recorded.

What rules it out, in this order: no validation at this epoch's end; a seed anywhere that is live and not FOSSILIZED yet (one cycle at a
time: the plateau of a host that still takes up a seed says nothing, and measured gains were no better with a race during FINE_TUNING);
the most races; fewer epochs left than two cycles; no site with a free slot and a blueprint within the limit of parameters; fewer free
slots at the chosen site than the race has candidates while others there come free soon (after a race that was culled only the fourth slot
is not under embargo, and a race of one would use up a germination).

Plateau: the validation loss has stopped falling, with what confidence. With v the validation losses since the last graft cycle and W the
window: r = 1 - min(last W) / min(all before) is how much better the window is; sigma = max(noise, residual standard deviation of log v
over the window around its line, W - 2 degrees of freedom) is how far a single loss is from its trend, as a share. confidence =
Phi((tolerance - r) / sigma); urgency = clip(1 - r / (2 tolerance), 0, 1).

A loss that was below 0 has no ratio. r and the residuals of v itself are shares of a scale then: the larger of the lowest loss's size and
of how far the median of the newest 32 lies above the lowest. So a log-likelihood that hovers around -1 is judged as a loss around 1 is, and
one that hovers around 0 by its own noise; a first loss far above all others, as densities have it, changes nothing. A loss whose lowest
is 0 can fall no further, as far as it shows. Losses that are not finite count for nothing before the window; in it there is no plateau.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import KEPT_LOSSES, SiteRow, SystemState
from esper.events.kinds.lifecycle import Stage
from esper.folds.transitions import LIVE
from esper.tamiyo.evidence import phi
from esper.tamiyo.policy_input import PolicyInput, PolicySettings, full_name
from esper.words import plural

_FAILURES = frozenset({Stage.CULLED.value, Stage.ROLLED_BACK.value})


class Plateau(NamedTuple):
    """Plateau of the loss; both numbers are in 0..1, never NaN."""

    confidence: float
    urgency: float
    reason: str


def plateau(losses: tuple[float, ...], settings: PolicySettings) -> Plateau:
    """Confidence that `losses` (oldest first) have stopped falling, and urgency of growth.

    Of the losses before the newest 32 only the lowest that is finite matters.
    """
    window = settings.window
    last, before = losses[-window:], [loss for loss in losses[:-window] if math.isfinite(loss)]
    if not all(math.isfinite(loss) for loss in last):
        return Plateau(0.0, 0.0, "a validation loss that is not finite shows no plateau")
    if len(last) < window or not before:
        count = len(last) + len(before)
        return Plateau(0.0, 0.0, f"{count} of the {window + 1} validation losses that show a plateau")
    if min(*last, *before) == 0.0:
        return Plateau(0.0, 0.0, "the lowest validation loss is 0")
    newest = [loss for loss in losses[-KEPT_LOSSES:] if math.isfinite(loss)]
    improved, sigma, of = _improvement(last, min(before), newest)
    confidence = phi((settings.tolerance - improved) / max(settings.noise, sigma))
    urgency = min(1.0, max(0.0, 1.0 - improved / (2.0 * settings.tolerance)))
    if improved < 0.0:
        return Plateau(confidence, urgency, f"best of {window} is {-100.0 * improved:.1f} %{of} worse than before")
    sign = "<" if improved < settings.tolerance else ">="
    reason = f"best of {window} improved {100.0 * improved:.1f} %{of} {sign} {100.0 * settings.tolerance:g} %"
    return Plateau(confidence, urgency, reason)


def _improvement(last: Sequence[float], before: float, newest: Sequence[float]) -> tuple[float, float, str]:
    """The fall from `before` to the lowest of `last`, how far one of it is from its trend, and of what both are shares, in words."""
    window, lowest = np.asarray(last, dtype=np.float64), min(*last, before)
    if lowest > 0.0:
        return 1.0 - min(last) / before, _residual_deviation(np.log(window)), ""
    scale = max(-lowest, float(np.median(newest)) - lowest)
    return (before - min(last)) / scale, _residual_deviation(window) / scale, f" of {scale:.3g}"


class _RaceSite(NamedTuple):
    """A site where a race can start: its free slots, lowest first, and its blueprints, the fewest failures there first."""

    site: str
    pressure: float | None
    slots: list[int]
    blueprints: list[str]


def hindrance(view: PolicyInput) -> str:
    """Reason against a germination at this epoch's end, in words; empty: none."""
    state, settings, left = view.state, view.settings, view.epochs_left
    if state.validation_loss is None:
        return "no validation at this epoch's end"
    live = next((seed for seed in view.seeds if seed.stage in LIVE), None)
    if live is not None:
        return f"{full_name(live)} is {live.stage}"
    if settings.max_germinations is not None and state.germinations >= settings.max_germinations:
        return f"{state.germinations} races of at most {settings.max_germinations} were started"
    if left is not None and left < 2 * settings.cycle:
        return f"{plural(left, 'epoch')} left, two seed cycles take {2 * settings.cycle}"
    return _no_room(view, _best_race_site(state))


def germinate(view: PolicyInput, plateau: Plateau) -> tuple[DecisionMade, ...]:
    """The decisions to germinate; empty where that is ruled out or the plateau is not likely enough.

    No live seed, no other adaptation: the gate's whole cap is left to the race.
    """
    place = _best_race_site(view.state)
    if hindrance(view) or place is None or not plateau.confidence >= view.settings.wish:
        return ()
    largest = place.pressure
    pressure = "its gradient pressure was not measured" if largest is None else f"gradient pressure {largest:.3g}, the largest"
    decisions = tuple(
        DecisionMade(
            adaptation=Adaptation.GERMINATE,
            site=place.site,
            seed=slot,
            blueprint=blueprint,
            confidence=plateau.confidence,
            urgency=plateau.urgency,
            reason=f"{plateau.reason}; {pressure}",
            evidence=(view.event,),
        )
        for slot, blueprint in zip(place.slots, place.blueprints, strict=False)
    )
    gate, epoch, reports = view.state.gate, view.state.epoch, view.state.field_reports
    lives = [seed.life for seed in view.state.seeds if seed.life is not None] + [report.life for report in reports]
    cooled = not lives or epoch - max(lives) >= gate.cooldown
    passes = view.gate_passes(decisions[0]) and cooled and epoch % gate.adaptation_every == 0
    return decisions[: max(1, min(view.settings.race, gate.adaptations_per_epoch)) if passes else 1]


def _best_race_site(state: SystemState) -> _RaceSite | None:
    """The site with the largest gradient pressure among those with a free slot and a blueprint; the first of equals.

    A pressure that was not measured, or is not finite, counts less than any.
    """

    def rank(row: SiteRow) -> float:
        pressure = row.gradient_pressure
        return pressure if pressure is not None and math.isfinite(pressure) else -math.inf

    free = [(seed.site, seed.seed) for seed in state.seeds if seed.stage is Stage.DORMANT]
    sites = {site for site, _ in free}
    best = max((row for row in state.sites if row.site in sites and row.blueprints), key=rank, default=None)
    if best is None:
        return None
    reports = (report for report in state.field_reports if report.site == best.site)
    failures = Counter(report.blueprint for report in reports if report.outcome in _FAILURES)
    blueprints = sorted(best.blueprints, key=lambda blueprint: failures[blueprint])
    return _RaceSite(best.site, best.gradient_pressure, sorted(slot for site, slot in free if site == best.site), blueprints)


def _no_room(view: PolicyInput, place: _RaceSite | None) -> str:
    """Reason in words why the best site has no room for a race; empty where it has, or gets no more."""
    state = view.state
    if place is None:
        if frozen := next((row for row in state.sites if row.frozen is not None and all(site.frozen for site in state.sites)), None):
            return f"nothing can grow at {frozen.site}: {frozen.frozen}"
        sites = {row.site for row in state.sites}
        if any(seed.stage is Stage.DORMANT and seed.site in sites for seed in state.seeds):
            return f"no blueprint is small enough: {state.parameters} parameters of at most {state.parameters_limit}"
        return "no site has a free slot"
    coming = sum(seed.site == place.site and seed.stage in (Stage.CULLED, Stage.CANCELLED) for seed in view.seeds)
    candidates = min(view.settings.race, len(place.blueprints))
    if coming and len(place.slots) < candidates:
        return f"a race of {candidates} at {place.site} waits for {coming} slots to come free"
    return ""


def _residual_deviation(values: npt.NDArray[np.float64]) -> float:
    """The standard deviation of `values` around their least-squares line over 0, 1, 2 ...; at least 3 values."""
    time = np.arange(len(values), dtype=np.float64) - (len(values) - 1) / 2.0
    centred = values - values.mean()
    residual = centred - time * (time @ centred) / (time @ time)
    return float(np.sqrt(residual @ residual / (len(values) - 2)))
