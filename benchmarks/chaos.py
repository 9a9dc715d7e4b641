"""Shows that workers are never wrong: real trainings' records over a real broker, and every process on the way stopped, killed or frozen.

    python benchmarks/chaos.py [--runs N] [--json] [--scenario NAME] [--state-every S] [--rng-seed N] [--controls N] [--records FOLDER]
                               [--host faust|plain]

A run has a broker of its own, 8 partitions, and 20 trainings' records (`chaos_runs.py`), written in slices into a directory; a bridge ships
it, workers derive. Scenarios take turns, and so do two intervals at which states are written, which is what a takeover folds again: 3 s
and 30 s. When everything is read the workers are stopped, and what a `read_committed` reader finds is compared with a plain loop's.

wrong: records that follow from nothing or have other bytes, and saved states that differ. missing: records that should be there, and ends
of topics that no state has. duplicates: ids that are there again. stalled: runs that did not come to their end in time. All must be 0.
What is left out of the comparison stands in tests/kafka/plain_loop.py. slowest_midcommit_s: the longest time from a death in a commit to
the third owner; it must be less than the transaction timeout of 60 s, or the broker would have ended the dead transaction by itself.

The controls show that the same scenarios see a fault where there is one: workers without fencing, workers with one position for outputs and
states, and workers with a plain Faust table (`chaos_faust.py`).
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from random import Random

from chaos_processes import STEPS
from chaos_runs import Logs, recorded
from chaos_trial import FAUST_TABLE, ONE_POSITION, PARTITIONS, UNFENCED, Process, StalledError, Trial
from rich.console import Console
from rich.table import Table

from tests.kafka.plain_loop import Verdict

INTERVALS_S = (3.0, 30.0)
CONTROLS = {
    UNFENCED: ("midcommit", "frozen", "kill"),
    ONE_POSITION: ("kill", "midcommit", "frozen"),
    FAUST_TABLE: ("bridge", "kill", "frozen"),
}
"""Controls, each with the scenarios that it is put through."""


# Scenarios. A fault comes when what it hits is at work: `at_work` waits for that, and more is written only as far as the scenario has come.


def term(trial: Trial) -> None:
    """SIGTERM for each of two workers in turn; another is started in its place."""
    _ended_in_turn(trial, [trial.worker(supervised=True) for _ in range(2)], signal.SIGTERM)


def kill(trial: Trial) -> None:
    """Kill -9 for each of two workers in turn; another is started in its place."""
    _ended_in_turn(trial, [trial.worker() for _ in range(2)], signal.SIGKILL)


def _ended_in_turn(trial: Trial, workers: Sequence[Process], number: int) -> None:
    trial.feed(limit=0.1)
    for limit, worker in zip((0.4, 0.8), workers, strict=True):
        trial.at_work(limit, *workers)
        worker.send(number)
    trial.feeder.limit = 1.0


def scale(trial: Trial) -> None:
    """One worker, then three, then one."""
    first = trial.worker()
    trial.feed(limit=0.1)
    trial.at_work(0.3, first)
    more = [trial.worker() for _ in range(2)]
    trial.at_work(0.7, first, *more)
    for worker in more:
        trial.stop(worker)
    trial.feeder.limit = 1.0


def frozen(trial: Trial) -> None:
    """SIGSTOP for one of two workers; when the other has taken over everything and folds on, SIGCONT."""
    one, other = trial.worker(), trial.worker()
    trial.feed(limit=0.1)
    trial.at_work(0.4, one, other)
    one.frozen = True
    one.send(signal.SIGSTOP)
    trial.wait("the other took over", lambda: len(other.positions()) == PARTITIONS)
    trial.at_work(0.7, other)
    trial.feeder.limit = 1.0
    one.send(signal.SIGCONT)
    one.frozen = False


def broker_restart(trial: Trial) -> None:
    """The broker is stopped, and is back after some seconds."""
    trial.feed(limit=0.1)
    trial.at_work(0.5, trial.worker(), trial.worker())
    trial.broker.stop()
    trial.feeder.limit = 0.7
    time.sleep(1 + 3 * trial.rng.random())
    trial.broker.start()
    trial.feeder.limit = 1.0


def broker_kill(trial: Trial) -> None:
    """Kill -9 for the broker, which is started again at once."""
    trial.feed(limit=0.1)
    trial.at_work(0.5, trial.worker(), trial.worker())
    trial.broker.kill()
    trial.broker.start()
    trial.feeder.limit = 1.0


def bridge(trial: Trial) -> None:
    """Bridges that end by SIGTERM, by kill -9, at steps of a transaction, and ones that take transactions back."""
    workers = trial.worker(), trial.worker()
    dying = [trial.driver("bridge", "--die", step, "--after", str(trial.rng.randint(2, 9))) for step in trial.rng.sample(STEPS, 3)]
    aborting = trial.driver("bridge", "--abort")
    trial.bridge.commands = cycle([aborting, dying[0], trial.shipping, dying[1], aborting, dying[2], trial.shipping])
    trial.feed(limit=0.1)
    for limit, number in ((0.2, signal.SIGKILL), (0.4, signal.SIGTERM), (0.6, signal.SIGKILL), (0.8, signal.SIGTERM)):
        trial.at_work(limit, *workers)
        trial.bridge.send(number)
    trial.feeder.limit = 1.0


def midcommit(trial: Trial) -> None:
    """An owner dies at a step of a commit; a second takes over, folds on, and is stopped; a third starts. Every step, in any order."""
    trial.feed(limit=0.1)
    steps = trial.rng.sample(STEPS, len(STEPS)) if trial.control is None else ["sent-2", "flushed"]
    for number, step in enumerate(steps, start=1):
        owner = trial.owner("--die", step, "--after", str(trial.rng.randint(0, 2)))
        trial.wait("the owner owns", lambda owner=owner: owner.ended or len(owner.positions()) == PARTITIONS)
        trial.feeder.limit = number / (len(steps) + 1)
        trial.wait(f"an owner died at {step}", lambda owner=owner: owner.ended)
        died_at = time.monotonic()
        second = trial.owner()
        trial.wait("a second took over", lambda second=second: len(second.positions()) == PARTITIONS)
        trial.at_work(trial.feeder.limit + 0.05, second)
        trial.stop(second)
        trial.slowest_s = max(trial.slowest_s, time.monotonic() - died_at)
    trial.owner()
    trial.feeder.limit = 1.0


SCENARIOS: dict[str, Callable[[Trial], None]] = {
    one.__name__: one for one in (kill, midcommit, frozen, bridge, scale, broker_restart, term, broker_kill)
}


@dataclass
class Outcome:
    """The outcome of one run."""

    scenario: str
    control: str | None
    state_every_s: float
    rng_seed: int
    seconds: float
    verdict: Verdict
    stalled: str | None = None
    midcommit_s: float = 0.0


def tried(scenario: str, control: str | None, logs: Logs, state_every_s: float, rng_seed: int, *, host: str, keep: Path) -> Outcome:
    """One run. What it left behind is moved to `keep` where something is wrong that must not be."""
    began_at = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="esper-chaos-"))
    trial = Trial(folder, logs, state_every_s=state_every_s, rng=Random(rng_seed), host=host, control=control)
    verdict, stalled = Verdict(), None
    try:
        SCENARIOS[scenario](trial)
        verdict = trial.finish()
    except StalledError as error:
        stalled = str(error)
    except Exception as error:  # One run that cannot be judged does not end the others.
        stalled = f"{type(error).__name__}: {error}"
    finally:
        trial.close()
    outcome = Outcome(scenario, control, state_every_s, rng_seed, time.monotonic() - began_at, verdict, stalled, trial.slowest_s)
    if control is None and (stalled or not verdict.right):
        shutil.move(folder, keep / f"{scenario}-{rng_seed}")
    else:
        shutil.rmtree(folder)
    _report(outcome, keep)
    return outcome


def _report(outcome: Outcome, keep: Path) -> None:
    verdict = outcome.verdict
    line = (
        f"{outcome.control or 'esper'}: {outcome.scenario}, states every {outcome.state_every_s:g} s, {outcome.seconds:.0f} s: "
        f"{verdict.derived:,} derived, {verdict.wrong} wrong, {verdict.missing} missing, {verdict.duplicates} duplicates"
    )
    print(line + (f", stalled: {outcome.stalled}" if outcome.stalled else ""), file=sys.stderr)
    if outcome.control is None and (outcome.stalled or not verdict.right):
        again = f"--scenario {outcome.scenario} --state-every {outcome.state_every_s:g} --rng-seed {outcome.rng_seed} --runs 1"
        print("\n".join([*(f"    {note}" for note in verdict.notes), f"    kept in {keep}; again: {again}"]), file=sys.stderr)


def counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """The keys of the result."""
    return {
        "runs": len(outcomes),
        "wrong": sum(one.verdict.wrong for one in outcomes),
        "missing": sum(one.verdict.missing for one in outcomes),
        "duplicates": sum(one.verdict.duplicates for one in outcomes),
        "stalled": sum(one.stalled is not None for one in outcomes),
    }


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--runs", type=int, default=8, help="number of runs, the scenarios in turn (default: 8)")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only this one; several times for several")
    parser.add_argument("--state-every", type=float, help="the interval for all runs (default: 3 s and 30 s in turn)")
    parser.add_argument("--rng-seed", type=int, default=1, help="of the first run; each next one has the next number (default: 1)")
    parser.add_argument("--controls", type=int, metavar="N", help="runs of each control besides (default: a twentieth of the runs)")
    words = "hosts the workers: Faust as users start it, or a plain consumer group (default: Faust)"
    parser.add_argument("--host", choices=("faust", "plain"), default="faust", help=words)
    parser.add_argument("--records", type=Path, metavar="FOLDER", help="keep the trainings there, and train nothing that it has")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # The processes that it started end with it.
    keep = Path(tempfile.mkdtemp(prefix="esper-chaos-kept-"))
    scenarios = options.scenario or list(SCENARIOS)
    logs = recorded(options.records or keep / "records")
    plan = [(scenarios[n % len(scenarios)], None, INTERVALS_S[n // len(scenarios) % 2], options.rng_seed + n) for n in range(options.runs)]
    for control, seen in CONTROLS.items():
        count = options.runs // 20 if options.controls is None else options.controls
        plan += [(seen[n % len(seen)], control, INTERVALS_S[1], options.rng_seed + n) for n in range(count)]
    outcomes = [
        tried(scenario, control, logs, options.state_every or interval, rng_seed, host=options.host, keep=keep)
        for scenario, control, interval, rng_seed in plan
    ]
    if options.json:
        print(json.dumps({"host": options.host} | _result(outcomes)))
    else:
        _show(outcomes)
    if not any(keep.iterdir()):
        keep.rmdir()


def _result(outcomes: Sequence[Outcome]) -> dict[str, object]:
    esper = [one for one in outcomes if one.control is None]
    result: dict[str, object] = dict(counts(esper))
    result["slowest_midcommit_s"] = round(max((one.midcommit_s for one in esper), default=0.0), 1)
    result["scenarios"] = {name: counts(found) for name in SCENARIOS if (found := [one for one in esper if one.scenario == name])}
    result["intervals"] = {f"{s:g} s": counts(found) for s in INTERVALS_S if (found := [one for one in esper if one.state_every_s == s])}
    controls = {name: [one for one in outcomes if one.control == name] for name in CONTROLS}
    result["controls"] = {
        name: counts(found) | {"runs_with_a_fault": sum(not one.verdict.right for one in found)}
        for name, found in controls.items()
        if found
    }
    return result


def _show(outcomes: Sequence[Outcome]) -> None:
    table = Table("", "scenario", "states every", "runs", "derived", "ends", "wrong", "missing", "duplicates", "stalled")
    groups = Counter((one.control or "esper", one.scenario, one.state_every_s) for one in outcomes)
    for group in groups:
        found = [one for one in outcomes if (one.control or "esper", one.scenario, one.state_every_s) == group]
        totals = [sum(one.verdict.derived for one in found), sum(one.verdict.ended for one in found)]
        counted = counts(found)
        values = [counted["runs"], *totals, counted["wrong"], counted["missing"], counted["duplicates"], counted["stalled"]]
        table.add_row(group[0], group[1], f"{group[2]:g} s", *(f"{value:,}" for value in values))
    Console().print(table)


if __name__ == "__main__":
    main()
