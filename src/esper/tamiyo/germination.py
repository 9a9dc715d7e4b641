"""Germination: a race of blueprints at the site with the largest gradient pressure.

A wish to germinate is recorded at most once per epoch's end, and only when nothing rules it out and the plateau is at least half likely
(`wish`). Where the gate will pass it, it is one decision per candidate, at most `race` and as many as the gate's cap allows; where the
gate will refuse it (confidence, urgency, frequency, cooldown, cap), it is the first candidate's alone, so that the refusal can be seen.

What rules it out, in this order: no validation at this epoch's end; a seed anywhere that is live and not FOSSILIZED yet (one cycle at a
time: the plateau of a host that still takes up a seed says nothing, and measured gains were no better with a race during FINE_TUNING);
the most races; fewer epochs left than two cycles; no site with a free slot and a blueprint within the limit of parameters; fewer free
slots at the chosen site than the race has candidates while others there come free soon (after a race that was culled only the fourth slot
is not under embargo, and a race of one would use up a germination).
"""

import math
from collections import Counter
from typing import NamedTuple

from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.epoch import SystemState
from esper.events.kinds.lifecycle import Stage
from esper.folds.transitions import LIVE
from esper.tamiyo.evidence import epochs
from esper.tamiyo.plateau import Plateau
from esper.tamiyo.policy_input import PolicyInput, free_slots, full_name

_FAILURES = frozenset({Stage.CULLED.value, Stage.ROLLED_BACK.value})


class _RaceSite(NamedTuple):
    """A site where a race can start: its free slots, lowest first, and its blueprints, the fewest failures there first."""

    site: str
    pressure: float | None
    slots: tuple[int, ...]
    blueprints: tuple[str, ...]


def hindrance(view: PolicyInput) -> str:
    """Reason against a germination at this epoch's end, in words; empty: none."""
    state, settings = view.state, view.settings
    if state.validation_loss is None:
        return "no validation at this epoch's end"
    live = next((seed for seed in view.seeds if seed.stage in LIVE), None)
    if live is not None:
        return f"{full_name(live)} is {live.stage}"
    started = state.germinations
    if settings.max_germinations is not None and started >= settings.max_germinations:
        return f"{started} races of at most {settings.max_germinations} were started"
    left = view.epochs_left
    if left is not None and left < 2 * settings.cycle:
        return f"{epochs(left)} left, two seed cycles take {2 * settings.cycle}"
    place = _best_race_site(state)
    return _nowhere(state) if place is None else _too_small(view, place)


def germinate(view: PolicyInput, plateau: Plateau) -> tuple[DecisionMade, ...]:
    """The wish to germinate; empty where it is ruled out or not likely enough.

    No live seed, no other adaptation: the gate's whole cap is left to the race.
    """
    place = _best_race_site(view.state)
    if hindrance(view) or place is None or not plateau.confidence >= view.settings.wish:
        return ()
    room = min(view.settings.race, view.state.gate.adaptations_per_epoch)
    candidates = max(1, room) if _gate_passes(view, plateau) else 1
    return tuple(
        DecisionMade(
            adaptation=Adaptation.GERMINATE,
            site=place.site,
            seed=slot,
            blueprint=blueprint,
            confidence=plateau.confidence,
            urgency=plateau.urgency,
            reason=f"{plateau.reason}; {_pressure(place)}",
            evidence=(view.event,),
        )
        for slot, blueprint in list(zip(place.slots, place.blueprints, strict=False))[:candidates]
    )


def _best_race_site(state: SystemState) -> _RaceSite | None:
    """The site with the largest gradient pressure among those with a free slot and a blueprint; the first of equals.

    A pressure that was not measured, or is not finite, counts less than any.
    """
    free = free_slots(state)
    failures = Counter((report.site, report.blueprint) for report in state.field_reports if report.outcome in _FAILURES)
    best: _RaceSite | None = None
    for row in state.sites:
        site, pressure = row.site, row.gradient_pressure
        if site in free and row.blueprints and (best is None or _rank(pressure) > _rank(best.pressure)):
            ordered = sorted(row.blueprints, key=lambda blueprint, site=site: failures[site, blueprint])  # type: ignore[misc]
            best = _RaceSite(site, pressure, tuple(free[site]), tuple(ordered))
    return best


def _nowhere(state: SystemState) -> str:
    if free_slots(state).keys() & {row.site for row in state.sites}:
        return f"no blueprint is small enough: {state.parameters} parameters of at most {state.parameters_limit}"
    return "no site has a free slot"


def _too_small(view: PolicyInput, place: _RaceSite) -> str:
    coming = sum(seed.site == place.site and seed.stage in (Stage.CULLED, Stage.CANCELLED) for seed in view.seeds)
    candidates = min(view.settings.race, len(place.blueprints))
    if coming == 0 or len(place.slots) >= candidates:
        return ""
    return f"a race of {candidates} at {place.site} waits for {coming} slots to come free"


def _gate_passes(view: PolicyInput, plateau: Plateau) -> bool:
    """True where confidence, urgency, frequency and cooldown let a germination pass; lives are read from seed table and reports."""
    gate, epoch = view.state.gate, view.state.epoch
    lives = [seed.life for seed in view.state.seeds if seed.life is not None]
    last = max((*lives, *(report.life for report in view.state.field_reports)), default=None)
    cooled = last is None or epoch - last >= gate.cooldown
    sure = plateau.confidence > gate.confidence_above and plateau.urgency > gate.urgency_above
    return sure and cooled and epoch % gate.adaptation_every == 0


def _rank(pressure: float | None) -> float:
    return pressure if pressure is not None and math.isfinite(pressure) else -math.inf


def _pressure(place: _RaceSite) -> str:
    return "its gradient pressure was not measured" if place.pressure is None else f"gradient pressure {place.pressure:.3g}, the largest"
