"""Trains the corpus, reads each log as an observer does, and says which alerts would have come: false ones, missed ones, late ones.

    python benchmarks/alarms.py [--json] [--held-out] [--rng-seeds 0-2] [--only NAME ...] [--jobs 1] [--peers PYTHON] [--list]

`corpus/` has the kinds, clean and broken, in two halves. Detectors are developed on one half; the other one, `corpus/held_out/`, was
written by somebody who had not seen them, is run with --held-out alone, and is worth nothing any more once somebody has tuned to it. Every
training runs in a process of its own, so that a fault may kill it.

false_alarms_per_clean_run: alerts of each severity that fire in a clean run, on average; runs_with_any: the share of clean runs with any
warning or critical alert. recall: the share of broken runs, by group, in which an alert of any severity fires at or after the fault's first
step. recall_not_finite, recall_died: the share of runs with a number that is not finite, or that ended by a fault, in which a critical one
does. recall_due: the share, by group, of the runs whose fault is a warning or worse in which a warning or worse fires.
wiring_in_first_epoch: of the runs that are wired wrongly within the first epoch the share in which a rule of the wiring fires by its
end. delay_steps: from that step to the record that the first such alert is about, median. right_severity: of the runs heard, the share
whose worst alert after the fault is as bad as the manifest says. right_cause: of the runs heard whose cause a rule of today can name, the
share in which one of those rules fires; causes_unnamed are those that no rule names. us_per_record: processor time of an observer's
cells; us_per_step: the same, of all records, for each optimizer step.
Peers: a fixed threshold (loss above 3, gradient norm outside 0.001 to 10), a z-score (three standard deviations over 64 values) of the same
two metrics, and chance: as many alerts a run as ours, at any step. With --peers also public detectors (`alarm_peers.py`), by the Python of
an environment that has them.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from corpus import CASES, GROUPS, RNG_SEEDS, Case
from peers import Measured, alarms, beyond_three_sigma, beyond_threshold
from rich.console import Console
from rich.table import Table

from esper.events import codec, topics
from esper.events.envelope import Record
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.observability import AlertFiring
from esper.events.kinds.telemetry import StepsMeasured
from esper.folds.monitoring.measurements import measurements_of
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.observer.build import watching_of
from esper.oona.directory import Directory

LIMIT_S = 240.0
ALONE = threading.Lock()
"""Held by a thread that does more than wait: a process that is forked beside it would keep the locks that it holds, for ever."""
DRAWS = 50
WORSE = {"critical": 2, "warning": 1, "info": 0}
NAMED: dict[str, frozenset[str]] = {
    "not_finite": frozenset(("loss-not-finite", "gradient-not-finite", "validation-loss-not-finite")),
    "gradient": frozenset(("gradients-vanishing", "layer-gradients-vanishing", "gradient-explosion")),
    "learning_rate": frozenset(
        (
            *("loss-relapse", "loss-setback", "learning-halted", "loss-oscillating", "loss-diverging", "gradient-explosion"),
            *("no-progress", "nothing-learned"),
        )
    ),
    "activation": frozenset(("seed-dead",)),
    "labels": frozenset(
        ("loss-relapse", "loss-setback", "loss-drifting", "loss-spike", "validation-apart", "no-progress", "nothing-learned")
    ),
    "data": frozenset(
        (
            "loss-relapse",
            "loss-setback",
            "loss-drifting",
            "loss-spike",
            "loss-diverging",
            "data-shrunk",
            "data-unshuffled",
            "batch-repeated",
        )
    ),
    "weights": frozenset(("loss-relapse", "loss-setback", "validation-stuck")),
    "optimizer": frozenset(("loss-relapse", "loss-setback", "training-stuck")),
    "preprocessing": frozenset(("loss-relapse", "loss-setback", "validation-relapse", "validation-apart")),
    "precision": frozenset(("no-progress",)),
    "validation": frozenset(("validation-relapse", "validation-apart", "validation-perfect")),
    "mode": frozenset(("validation-relapse", "validation-apart")),
    "overfitting": frozenset(("overfitting", "validation-lost", "validation-apart")),
    "loader": frozenset(("data-waiting", "data-stalled")),
    "throughput": frozenset(("data-waiting", "steps-slower")),
    "memory": frozenset(("memory-growing",)),
    "stuck": frozenset(("training-stuck", "layer-stuck", "batch-repeated")),
    "process": frozenset(("run-failed", "run-dead")),
    "growth": frozenset(("loss-relapse", "loss-setback", "seed-not-finite", "seed-dead", "run-rolled-back", "wiring-weights-faded")),
}
"""The rules whose texts name a cause; a cause without an entry is named by none. Those of the wiring follow."""
WIRED: dict[str, str] = {
    "gradient": "layer-without-gradient gradients-kept nothing-changes steps-too-small",
    "learning_rate": "learning-rate-zero learning-rate-absurd steps-too-small nothing-changes guessing still-guessing",
    "labels": "targets-constant guessing still-guessing",
    "decay": "decay-too-strong weights-faded output-constant still-guessing",
    "precision": "updates-lost layer-unchanged",
    "optimizer": "not-in-optimizer nothing-changes",
    "activation": "layer-dead layer-saturated",
    "output": "output-saturated output-constant output-clipped probabilities-as-logits",
    "loss": "targets-not-paired targets-ignored loss-upside-down",
    "data": "input-constant",
    "weights": "starts-far-off weights-equal weights-faded layer-saturated output-saturated still-guessing",
    "preprocessing": "inputs-differ",
    "validation": "target-among-inputs splits-overlap",
    "mode": "dropout-in-validation normalisation-on-eval dropout-on-eval",
}
NAMED |= {cause: NAMED.get(cause, frozenset()) | {f"wiring-{name}" for name in names.split()} for cause, names in WIRED.items()}


@dataclass(frozen=True)
class Alarm:
    """An alert that began to fire, in the record of which step."""

    step: int
    rule: str
    severity: str


@dataclass
class Judged:
    """What came of one training: the last step of the run and of its first epoch, our alerts, what each peer says, and the lines that a
    training loop logs."""

    case: Case
    steps: int
    first_epoch: int
    fired: list[Alarm]
    peers: dict[str, list[Alarm]] = field(default_factory=dict)
    lines: list[dict[str, float | None]] = field(default_factory=list)
    us_per_record: float = 0.0
    us_per_step: float = 0.0
    peers_us: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Trains, judges, and prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--held-out", action="store_true", help="the other half too: once, when nothing is changed any more")
    parser.add_argument("--rng-seeds", type=_seeds, default=list(RNG_SEEDS), metavar="FIRST-LAST")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these kinds alone, of the development half")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--peers", metavar="PYTHON", help="judge public detectors too, by this Python, which has them")
    parser.add_argument("--list", action="store_true", help="the manifest, and no training")
    arguments = parser.parse_args()
    if arguments.list:
        _show_manifest()
        return
    torch.set_num_threads(1)
    halves = ("development", "held_out") if arguments.held_out else ("development",)
    results = {}
    for half in halves:
        cases = [case for case in CASES if case.half == half and (arguments.only is None or case.name in arguments.only)]
        judged = _judged(cases, arguments.rng_seeds, arguments.jobs)
        if arguments.peers:
            _ask_peers(arguments.peers, judged)
        results[half] = _results(judged)
    if arguments.json:
        json.dump(results, sys.stdout)
        print()
    else:
        for half, result in results.items():
            _show(half, result)


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _judged(cases: Sequence[Case], rng_seeds: Sequence[int], jobs: int) -> list[Judged]:
    with tempfile.TemporaryDirectory(prefix="esper-alarms-") as folder, ThreadPoolExecutor(jobs) as pool:
        asked = [(case, rng_seed, Path(folder)) for rng_seed in rng_seeds for case in cases]
        return list(pool.map(lambda one: _judge(*one), asked))


# Training and observing


def _train(case: Case, rng_seed: int, folder: Path) -> None:
    torch.set_num_threads(1)
    sys.stderr = (folder / "stderr").open("w", buffering=1)
    try:
        case.training(rng_seed).fit(folder / "log", rng_seed)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # At once: this process believes that it has the threads of the one it was forked from, and would wait for them.


def _judge(case: Case, rng_seed: int, folder: Path) -> Judged:
    place = folder / f"{case.name}-{rng_seed}"
    place.mkdir(parents=True)
    # Forked, so that torch is loaded once; nothing has trained in this process, which forking would not survive.
    child = multiprocessing.get_context("fork").Process(target=_train, args=(case, rng_seed, place))
    with ALONE:
        child.start()
    child.join(LIMIT_S)
    if child.is_alive():
        child.kill()
        child.join()
    with ALONE:
        return _read(case, rng_seed, place, child.exitcode)


def _read(case: Case, rng_seed: int, place: Path, status: int | None) -> Judged:
    directory = Directory(place / "log")
    names = directory.names()
    if not names or (case.at is None and status):
        raise SystemExit(f"{case.name}, rng seed {rng_seed}: no whole run, exit status {status}: {(place / 'stderr').read_text()[-600:]}")
    with directory.open(names[0]) as log:
        records = list(log.read(limit=1_000_000).records)
    judged = _observed(case, records, RunMonitor(names[0], watching_of(directory)))
    print(f"{case.name} {rng_seed}: {judged.steps} steps, {[(one.rule, one.step) for one in judged.fired][:6]}", file=sys.stderr)
    return judged


def _observed(case: Case, records: list[Record], monitor: RunMonitor) -> Judged:
    started = time.process_time()
    fired = _fired(one for record in records for one in monitor.take(record))
    us = 1e6 * (time.process_time() - started)
    if not monitor.ended:  # What the observer's clock finds when nothing comes any more and nobody holds the run's lock.
        silent = _fired(monitor.judge_silence(records[-1].time + timedelta(days=1), 86_400.0, lock_free=True))
        # The last steps before a process died stand in no record.
        fired += [replace(alarm, step=max(alarm.step, case.at or 0)) for alarm in silent]
    watched = [record for record in records if record.topic == topics.STEPS]
    measured = [Measured(one.topic, one.step, read) for one in watched if (read := measurements_of(codec.decode(one))) is not None]
    peers = {
        name: [Alarm(step, shown, "warning") for shown in ("spike", "explosion") for step in alarms(measured, shown, peer)]
        for name, peer in (("threshold", beyond_threshold), ("z_score", beyond_three_sigma))
    }
    ends = [record.step for record in records if record.type == EpochCompleted.KIND]
    last = max(record.step for record in records)
    first_epoch = min(ends, default=last)
    return Judged(case, last, first_epoch, fired, peers, _lines(records), us / len(records), us / max(1, last))


def _lines(records: list[Record]) -> list[dict[str, float | None]]:
    """What a training loop would have logged, in order."""
    lines: list[dict[str, float | None]] = []
    for record in records:
        event = codec.decode(record) if record.topic in {topics.STEPS, topics.EPOCH} else None
        if isinstance(event, StepsMeasured):
            columns, rate = event.steps, next(iter(event.learning_rates), None)
            for step, loss, norm in zip(columns.step, columns.loss, columns.gradient_norm, strict=True):
                lines.append({"step": step, "loss": loss, "grad_norm": norm, "learning_rate": rate})
        elif isinstance(event, EpochCompleted) and event.validation is not None:
            lines.append({"step": record.step, "eval_loss": event.validation.loss})
    return lines


def _ask_peers(python: str, judged: list[Judged]) -> None:
    """Adds what the detectors that `python` has say of each training."""
    asked = "".join(json.dumps(one.lines) + "\n" for one in judged)
    script = str(Path(__file__).with_name("alarm_peers.py"))
    answers = subprocess.run([python, script], input=asked, capture_output=True, text=True, check=True).stdout.splitlines()
    for one, answer in zip(judged, answers, strict=True):
        for name, (found, us_per_step) in json.loads(answer).items():
            one.peers[name] = [Alarm(step, name, severity) for step, severity in found]
            one.peers_us[name] = us_per_step


def _fired(derived: Iterable[Record]) -> list[Alarm]:
    alerts = [(one.step, codec.decode(one)) for one in derived if one.topic == topics.ALERTS]
    return [Alarm(step, event.rule, event.severity) for step, event in alerts if isinstance(event, AlertFiring)]


# Results


def _results(judged: list[Judged]) -> dict[str, object]:
    clean = [one for one in judged if one.case.at is None]
    broken = [one for one in judged if one.case.at is not None]
    heard = {id(one): after for one in broken if (after := [alarm for alarm in one.fired if alarm.step >= (one.case.at or 0)])}
    known = [one for one in broken if id(one) in heard]
    named = [one for one in known if one.case.cause in NAMED]
    return {
        "clean_runs": len(clean),
        "broken_runs": len(broken),
        "false_alarms_per_clean_run": _false([one.fired for one in clean]),
        "runs_with_any": _mean(any(alarm.severity != "info" for alarm in one.fired) for one in clean),
        **_recall(broken, {id(one): [alarm.step for alarm in one.fired] for one in broken}),
        "recall_due": _due(broken),
        "recall_not_finite": _critical(broken, "not_finite"),
        "recall_died": _critical(broken, "process"),
        "wiring_in_first_epoch": _mean(map(_is_heard_early, (one for one in broken if _is_wired_wrongly(one)))),
        "right_severity": _mean(_worst(heard[id(one)]) == one.case.severity for one in known),
        "right_cause": _mean(any(alarm.rule in NAMED[one.case.cause] for alarm in heard[id(one)]) for one in named),
        "causes_unnamed": sorted({one.case.cause for one in broken} - NAMED.keys()),
        "missed": dict(Counter(one.case.name for one in broken if id(one) not in heard)),
        "false_alarms": {name: dict(rules) for name, rules in _rules(clean).items()},
        "us_per_record": round(median(one.us_per_record for one in judged), 1) if judged else None,
        "us_per_step": round(median(one.us_per_step for one in judged), 1) if judged else None,
        "peers": {name: _peer(clean, broken, name) for name in broken[0].peers} | {"chance": _chance(judged, broken)},
    }


def _is_wired_wrongly(one: Judged) -> bool:
    """The wiring is at fault within the first epoch."""
    return one.case.group == "wiring" and one.case.at is not None and one.case.at < one.first_epoch


def _due(broken: list[Judged]) -> dict[str, float | None]:
    asked = [one for one in broken if one.case.severity != "info"]
    return {
        group: _mean(
            any(alarm.severity != "info" and alarm.step >= (one.case.at or 0) for alarm in one.fired)
            for one in asked
            if one.case.group == group
        )
        for group in GROUPS
    }


def _critical(broken: list[Judged], cause: str) -> float | None:
    """The share of the runs with a fault of this cause in which a critical alert fires at or after its first step."""
    asked = [one for one in broken if one.case.cause == cause]
    return _mean(any(alarm.severity == "critical" and alarm.step >= (one.case.at or 0) for alarm in one.fired) for one in asked)


def _is_heard_early(one: Judged) -> bool:
    return any(alarm.rule.startswith("wiring-") and (one.case.at or 0) <= alarm.step <= one.first_epoch for alarm in one.fired)


def _mean(values: object) -> float | None:
    listed = list(values)  # type: ignore[call-overload] # generators of numbers and of truths
    return round(mean(map(float, listed)), 3) if listed else None


def _worst(fired: list[Alarm]) -> str:
    return max((alarm.severity for alarm in fired), key=WORSE.__getitem__)


def _rules(clean: list[Judged]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for one in clean:
        for alarm in one.fired:
            found.setdefault(one.case.name, Counter())[alarm.rule] += 1
    return found


def _recall(broken: list[Judged], steps: dict[int, list[int]]) -> dict[str, object]:
    """Recall by group and over all, and the delay, of alarms at `steps` of each broken run."""
    first = {id(one): min((step for step in steps[id(one)] if step >= (one.case.at or 0)), default=None) for one in broken}
    delays = [step - (one.case.at or 0) for one in broken if (step := first[id(one)]) is not None]
    groups = [group for group in GROUPS if any(one.case.group == group for one in broken)]
    by_group = {group: _mean(first[id(one)] is not None for one in broken if one.case.group == group) for group in groups}
    overall = _mean(step is not None for step in first.values())
    return {"recall": by_group, "recall_overall": overall, "delay_steps": float(median(delays)) if delays else None}


def _peer(clean: list[Judged], broken: list[Judged], name: str) -> dict[str, object]:
    costs = [one.peers_us[name] for one in (*clean, *broken) if name in one.peers_us]
    return {
        "us_per_step": round(median(costs), 1) if costs else None,
        "false_alarms_per_clean_run": _false([one.peers[name] for one in clean]),
        "runs_with_any": _mean(any(alarm.severity != "info" for alarm in one.peers[name]) for one in clean),
        **_recall(broken, {id(one): [alarm.step for alarm in one.peers[name]] for one in broken}),
    }


def _false(fired: list[list[Alarm]]) -> dict[str, float | None]:
    return {severity: _mean(sum(alarm.severity == severity for alarm in one) for one in fired) for severity in WORSE}


def _chance(judged: list[Judged], broken: list[Judged]) -> dict[str, object]:
    """As many alerts a run as ours, at any of its steps: recall over many draws."""
    random, rate = np.random.default_rng(0), mean(len(one.fired) for one in judged) if judged else 0.0
    hits: dict[str, list[bool]] = {}
    for one in broken:
        for _ in range(DRAWS):
            steps = random.uniform(0, one.steps, random.poisson(rate))
            hits.setdefault(one.case.group, []).append(bool((steps >= (one.case.at or 0)).any()))
    overall = _mean(hit for group in hits.values() for hit in group)
    return {"alerts_per_run": round(rate, 3), "recall": {group: _mean(hit) for group, hit in hits.items()}, "recall_overall": overall}


def _show(half: str, result: dict[str, object]) -> None:
    table = Table(title=f"{half}: {result['clean_runs']} clean and {result['broken_runs']} broken runs")
    peers = result["peers"]
    assert isinstance(peers, dict)
    for column in ("what", "alerts", *peers):
        table.add_column(column)
    columns = [result, *peers.values()]
    for name in (
        "false_alarms_per_clean_run",
        "runs_with_any",
        "recall_overall",
        "delay_steps",
        "recall_not_finite",
        "recall_died",
        "wiring_in_first_epoch",
        "right_severity",
        "right_cause",
        "us_per_record",
        "us_per_step",
    ):
        table.add_row(name, *(_text(column.get(name)) for column in columns))
    recall = result["recall"]
    assert isinstance(recall, dict)
    for group in recall:
        table.add_row(f"recall, {group}", *(_text(column["recall"].get(group)) for column in columns))
    console = Console(width=140)
    console.print(table)
    for name in ("missed", "false_alarms", "causes_unnamed"):
        console.print(f"{name}: {result[name]}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_text(number)} {name}" for name, number in value.items())
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _show_manifest() -> None:
    for case in CASES:
        fault = "clean" if case.at is None else f"{case.severity} from step {case.at} ({case.cause}): {case.told}"
        print(f"{case.half:12} {case.group:12} {case.name}: {fault}")


if __name__ == "__main__":
    main()
