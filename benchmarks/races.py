"""Races of seeds that do nothing, and of one that helps, decided by the policy itself from simulated losses.

A race has three candidates at three alphas, and is looked at after each of seven epochs, until one is grafted. Without an effect every gain
has the mean 0 in the population, so whatever is grafted is so by luck: the gate's limit promises at most 30 % of races. `independent` draws
each candidate, alpha and epoch for itself, the worst that can be; `alike` lets alphas, and epochs one after another, share 90 % of their
variance, as those of one seed on the same data do. Few large gains, or losses, are exponential; rare larger losses are lognormal. With an
effect one candidate's gain has the mean that stands there, in standard errors, at the first and at the last look; what is counted is how
often that candidate is grafted.

Beside it the formula without looks and with a normal distribution, Phi(z)^k, on the same losses.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from esper.events.envelope import EventId
from esper.events.kinds.control import Adaptation
from esper.events.kinds.epoch import GateSettings, SiteRow, SystemState
from esper.events.kinds.lifecycle import Evaluation, SeedRow, Stage
from esper.tamiyo.policy import decide
from esper.tamiyo.policy_input import PolicySettings
from esper.tolaria.validation import Losses, paired_evaluation

_Floats = npt.NDArray[np.float64]
SETTINGS, GATE = PolicySettings(), GateSettings()
CANDIDATES, LOOKS = SETTINGS.race, (SETTINGS.patience - 1) * SETTINGS.train_epochs + 1
OLD_LIMIT = NormalDist().inv_cdf(GATE.confidence_above ** (1 / (CANDIDATES * len(SETTINGS.alphas))))


@dataclass(frozen=True)
class Scenario:
    """Races of `pairs` pairs; `shared` is the share of the variance that alphas and successive looks have in common."""

    name: str
    pairs: int = 350
    shared: float = 0.0
    draw: Callable[[np.random.Generator, tuple[int, ...]], _Floats] = np.random.Generator.standard_normal
    effect: tuple[float, float] = (0.0, 0.0)


def _large_gains(random: np.random.Generator, shape: tuple[int, ...]) -> _Floats:
    return random.standard_exponential(shape) - 1.0


def _large_losses(random: np.random.Generator, shape: tuple[int, ...]) -> _Floats:
    return 1.0 - random.standard_exponential(shape)


def _rare_losses(random: np.random.Generator, shape: tuple[int, ...]) -> _Floats:
    return math.sqrt(math.e) - random.lognormal(0.0, 1.0, shape)


SCENARIOS = (
    Scenario("independent"),
    Scenario("independent, 64 pairs", pairs=64),
    Scenario("independent, 8 pairs", pairs=8),
    Scenario("independent, few large gains", draw=_large_gains),
    Scenario("independent, few large losses", draw=_large_losses),
    Scenario("independent, few large losses, 64 pairs", pairs=64, draw=_large_losses),
    Scenario("independent, rare larger losses", draw=_rare_losses),
    Scenario("alike", shared=0.9),
    Scenario("alike, few large losses", shared=0.9, draw=_large_losses),
    Scenario("alike, rare larger losses", shared=0.9, draw=_rare_losses),
    Scenario("alike, one helps: 2 to 2", shared=0.9, effect=(2.0, 2.0)),
    Scenario("alike, one helps: 3 to 3", shared=0.9, effect=(3.0, 3.0)),
    Scenario("alike, one helps: 1 to 4", shared=0.9, effect=(1.0, 4.0)),
    Scenario("alike, one helps: 4 to 4", shared=0.9, effect=(4.0, 4.0)),
)


def main() -> None:
    """Simulates, then prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--races", type=int, default=10_000, metavar="N", help="races of each scenario (default: 10000)")
    parser.add_argument("--like", default="", metavar="TEXT", help="only the scenarios whose name begins with TEXT")
    parser.add_argument("--rng-seed", type=int, default=0, metavar="N")
    arguments = parser.parse_args()
    results = {}
    with Progress(console=Console(stderr=True)) as progress:
        for scenario in (one for one in SCENARIOS if one.name.startswith(arguments.like)):
            random, races = np.random.default_rng(arguments.rng_seed), range(arguments.races)
            outcomes = [_race(scenario, random) for _ in progress.track(races, description=scenario.name)]
            results[scenario.name] = _summary(scenario, outcomes)
    if arguments.json:
        json.dump({"promised": round(1 - GATE.confidence_above, 3), "looks": LOOKS, "scenarios": results}, sys.stdout)
        print()
    else:
        _show(results, arguments.races)


def _race(scenario: Scenario, random: np.random.Generator) -> tuple[int | None, int | None]:
    """The candidate that the policy grafts and the one that the formula without looks does; None: none."""
    new: int | None = None
    old: int | None = None
    before = scenario.draw(random, (CANDIDATES, 1, scenario.pairs))
    for look in range(LOOKS):
        kept, own = math.sqrt(scenario.shared), math.sqrt(1 - scenario.shared)
        before = kept * before + own * scenario.draw(random, before.shape) if look else before
        gains = kept * before + own * scenario.draw(random, (CANDIDATES, len(SETTINGS.alphas), scenario.pairs))
        first, last = scenario.effect
        gains[0] += (first + (last - first) * look / (LOOKS - 1)) / math.sqrt(scenario.pairs)
        means, errors = gains.mean(axis=2) * SETTINGS.alphas, gains.std(axis=2, ddof=1) * SETTINGS.alphas / math.sqrt(scenario.pairs)
        best = means.argmax(axis=1)
        passed = [slot for slot, alpha in enumerate(best) if means[slot, alpha] / errors[slot, alpha] > OLD_LIMIT]
        if not passed:
            continue  # Phi(z)^k is larger than the policy's confidence: what does not pass by it, passes by neither.
        old = max(passed, key=lambda slot: float(means[slot, best[slot]])) if old is None else old
        if new is None:
            new = _grafted([_evaluation(gains[slot, alpha], int(alpha), look) for slot, alpha in enumerate(best)])
    return new, old


def _evaluation(gains: _Floats, alpha: int, look: int) -> Evaluation:
    """That of one seed at its best alpha, by the trainer's own formulas."""
    ones, share = np.ones(len(gains)), SETTINGS.alphas[alpha]
    without, with_seed = (Losses(values, ones, {}, (values, ones)) for values in (ones, ones - share * gains))
    return paired_evaluation(without, with_seed, epoch=SETTINGS.train_epochs + look, alpha=share, k=len(SETTINGS.alphas), look=look + 1)


def _grafted(evaluations: list[Evaluation]) -> int | None:
    """The seed that the policy grafts; `evaluations` are of each seed."""
    seeds = tuple(
        SeedRow(site="0", seed=slot, stage=Stage.TRAINING, life=0, blueprint="mlp:24", evaluation=evaluation)
        for slot, evaluation in enumerate(evaluations)
    )
    state = _STATE.model_copy(update={"epoch": evaluations[0].epoch, "seeds": seeds})
    grafts = [decision for decision in decide(state, EventId("epoch"), SETTINGS) if decision.adaptation is Adaptation.GRAFT]
    passing = [one.seed for one in grafts if one.confidence > GATE.confidence_above and one.urgency > GATE.urgency_above]
    return passing[0] if passing else None


_STATE = SystemState(
    epoch=0,
    epochs_planned=None,
    train_loss=1.0,
    train_metrics={},
    validation_loss=1.0,
    validation_metrics={},
    validation_losses=(1.0,),
    earlier_loss=None,
    best_loss=1.0,
    best_epoch=0,
    epochs_since_improvement=0,
    parameters=1,
    parameters_limit=2,
    germinations=1,
    stages={},
    sites=(SiteRow(site="0", refused=0, failed=0, blueprints=("mlp:24",)),),
    seeds=(),
    field_reports=(),
    gate=GATE,
)


def _summary(scenario: Scenario, outcomes: list[tuple[int | None, int | None]]) -> dict[str, float]:
    """Shares of races in which one is grafted, and in which the one that helps is."""
    new, old = ([outcome[which] for outcome in outcomes] for which in (0, 1))
    count = len(outcomes)
    summary = {"grafted": sum(one is not None for one in new) / count, "without_looks": sum(one is not None for one in old) / count}
    if any(scenario.effect):
        summary |= {"right": sum(one == 0 for one in new) / count, "right_without_looks": sum(one == 0 for one in old) / count}
    return {name: round(share, 4) for name, share in summary.items()}


def _show(results: dict[str, dict[str, float]], races: int) -> None:
    table = Table(title=f"share of {races} races in which a seed is grafted, or the one that helps, in percent")
    for heading in ("races", "grafted", "by Phi(z)^k", "the right one", "by Phi(z)^k"):
        table.add_column(heading, justify="left" if heading == "races" else "right")
    for name, row in results.items():
        shares = (row.get(one) for one in ("grafted", "without_looks", "right", "right_without_looks"))
        table.add_row(name, *("" if share is None else f"{100 * share:.1f}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
