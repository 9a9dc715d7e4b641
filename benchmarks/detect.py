"""Puts faults into real trainings and asks the detectors what they find, beside what users write today.

    python benchmarks/detect.py [--json] [--quick] [--rng-seeds 300-317] [--keep FOLDER]

Every rng seed is one training: eight that do not grow, in turn, and one that does. Each is trained clean once, and once with every fault
that has an effect there (`faults.py`); clean growing trainings of more rng seeds show what benign grafts do. The detectors were calibrated
on rng seeds 0 to 25 and are judged on 300 and up. What they read is the log that the training left.

recall: share of faulty trainings in which the detector that the fault is for announces it within the fault's horizon. delay_steps: from
the fault's first step to that of the record in which it is announced, median (and 95th percentile in the table). precision: those
trainings, over those and every announcement of the same detector in the clean trainings of the same rng seeds. false alarms: all
announcements in all clean trainings; the rate is the worst metric's. benign_graft_alarm_share: grafts followed by any announcement
within 200 steps. us_per_record: processor time of one record of run-level metrics, its reading included; us_per_health_record: of one of
1,000 seeds. The threshold, the z-score and chance are judged in the same way (recall / precision in the table); the means are those of
the harmonic means of recall and precision over all faults.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median

import numpy as np
import peers
import torch
from faults import FAULTS, fits, with_fault
from peers import Measured, beyond_three_sigma, beyond_threshold
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from trainings import QUICK, STATICS, TRAININGS, Training

from esper.events import codec, topics
from esper.events.digests import derived_id, digest_of, to_json
from esper.events.envelope import Record, RunId
from esper.events.fields import Event
from esper.events.kinds.lifecycle import SeedTransitioned, Stage
from esper.events.kinds.observability import AnomalyDetected
from esper.events.kinds.telemetry import HealthColumns, SeedHealthMeasured
from esper.folds.monitoring.cell import Cell, from_bytes, to_bytes
from esper.folds.monitoring.derive import RULE_VERSIONS, TopicState
from esper.folds.monitoring.detectors.detect import DetectorState, find_anomalies
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.folds.monitoring.measurements import measurements_of
from esper.oona.directory import Directory
from esper.processes.recipe import Recipe, run_settings
from esper.processes.train import fresh_run_id, train
from esper.tolaria.trainer import UnstableError

CLEAN = "clean"
GRAFTED_STEPS = 200
WATCHED = frozenset((topics.STEPS, topics.SEED_HEALTH, topics.EPOCH))
TURN = (*STATICS, "growing_digits")
DRAWS = 50
SHARES = ("activation_variance", "gradient_variance", "dead_neuron_ratio", "avg_correlation", "health_score")


@dataclass(frozen=True)
class Case:
    """One training to be recorded: what, with which fault, for which rng seed."""

    training: str
    kind: str
    rng_seed: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.training}-{self.kind}-{self.rng_seed}"


@dataclass(frozen=True)
class Finding:
    """One announcement: in the record of which step, by which detector about which metric."""

    step: int
    detector: str
    metric: str


@dataclass
class Judged:
    """What came of a case: the fault's step, the run's last, what detectors announced, and what peers did, by peer."""

    case: Case
    at: int
    steps: int
    found: list[Finding]
    grafts: list[int]
    peers: dict[str, list[int]] = field(default_factory=dict)
    same_ids: bool = True
    us_per_record: list[float] = field(default_factory=list)


def main() -> None:
    """Trains, judges, and prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--quick", action="store_true", help="one training and three faults, to see that all of this works")
    parser.add_argument("--rng-seeds", type=_seeds, default=_seeds("300-317"), metavar="FIRST-LAST")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the logs there, and train nothing that it has")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = _quick_cases() if arguments.quick else list(_cases(arguments.rng_seeds))
    with tempfile.TemporaryDirectory(prefix="esper-detect-") as folder, Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task("trainings", total=len(cases))
        judged = []
        for case in cases:
            judged.append(_judge(case, arguments.keep or Path(folder)))
            progress.advance(bar)
    results = _results(judged)
    if arguments.json:
        json.dump(results, sys.stdout)
        print()
    else:
        _show(results, "quick" if arguments.quick else f"rng seeds {arguments.rng_seeds[0]} to {arguments.rng_seeds[-1]}")


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _cases(rng_seeds: list[int]) -> Iterator[Case]:
    for number, rng_seed in enumerate(rng_seeds):
        name = TURN[number % len(TURN)]
        yield Case(name, CLEAN, rng_seed)
        for kind in FAULTS:
            if fits(kind, TRAININGS[name](rng_seed)):
                yield Case(name, kind, rng_seed)
    # Benign grafts: what grows, clean, for more rng seeds. The last eight and two, so that no pair stands twice.
    for rng_seed in range(rng_seeds[-1] + 1, rng_seeds[-1] + 9):
        yield Case("growing_digits", CLEAN, rng_seed)
    for rng_seed in range(rng_seeds[-1] + 1, rng_seeds[-1] + 3):
        yield Case("growing_mnist1d", CLEAN, rng_seed)


def _quick_cases() -> list[Case]:
    return [Case("teacher", kind, 0) for kind in (CLEAN, "nan", "gradient_explosion", "step_drift")]


# Recording


def _record(case: Case, folder: Path) -> tuple[list[Record], int]:
    """The records of the case's log, trained unless the folder has it, and the step of its fault."""
    training, at = TRAININGS[case.training](case.rng_seed), sys.maxsize
    if case.kind != CLEAN:
        training, at = with_fault(training, case.kind, case.rng_seed)
    place = folder / case.name
    done = place / "run"
    directory = Directory(place, create=True)
    if not done.exists():
        run = fresh_run_id()
        try:
            _train(training, case, directory, run)
        except UnstableError as error:
            # A faulty training may well end after too many rollbacks. Its log stands.
            if case.kind == CLEAN:
                raise
            print(f"{case.name}: {error}", file=sys.stderr)
        done.write_text(run)
    with directory.open(RunId(done.read_text())) as log:
        return list(log.read(limit=1_000_000, topics=WATCHED | {topics.LIFECYCLE}).records), at


def _train(training: Training, case: Case, directory: Directory, run: RunId) -> None:
    settings = run_settings(training.settings, QUICK, {"trainer.epochs": training.epochs, "trainer.rng_seed": case.rng_seed})
    recipe = Recipe(
        task=case.name,
        model=training.model,
        optimizer=training.optimizer,
        train=training.train,
        valid=training.valid,
        objective=training.objective,
        scheduler=training.scheduler,
    )
    train(recipe, settings, directory, run)


# Judging


def _judge(case: Case, folder: Path) -> Judged:
    records, at = _record(case, folder)
    watched = [record for record in records if record.topic in WATCHED]
    found, ids, us = _detected(watched, again=False)
    _, ids_again, _ = _detected(watched, again=True)
    judged = Judged(case, at, watched[-1].step, found, _grafts(records), same_ids=ids == ids_again, us_per_record=us)
    measured = [Measured(one.topic, one.step, read) for one in watched if (read := measurements_of(codec.decode(one))) is not None]
    for name, peer in (("threshold", beyond_threshold), ("z_score", beyond_three_sigma)):
        for detector in peers.SHOWN:
            judged.peers[f"{name}.{detector}"] = peers.alarms(measured, detector, peer)
    return judged


def _detect(
    state: DetectorState, topic: str, event: Event, settings: DetectorSettings
) -> tuple[DetectorState, tuple[AnomalyDetected, ...]]:
    read = measurements_of(event)
    return (state, ()) if read is None else find_anomalies(state, topic, read, settings)


def _saved(state: DetectorState) -> bytes:
    return to_bytes(Cell(topics.STEPS, state=TopicState(detectors=state)))


def _detected(records: list[Record], *, again: bool) -> tuple[list[Finding], list[str], list[float]]:
    """What is found, the ids that the findings get, and the microseconds that each record of steps took; `again`: the state goes through
    its form after every seventh record."""
    states: dict[str, DetectorState] = {}
    settings, found, ids, us = DetectorSettings(), [], [], []
    digest = digest_of(to_json(settings))
    for number, record in enumerate(records):
        event = codec.decode(record)
        started = time.process_time_ns()
        state, begun = _detect(states.get(record.topic, DetectorState()), record.topic, event, settings)
        if record.topic == topics.STEPS:
            us.append((time.process_time_ns() - started) / 1e3)
        states[record.topic] = from_bytes(_saved(state)).state.detectors if again and number % 7 == 0 else state
        found += [Finding(record.step, one.detector, one.metric) for one in begun]
        ids += [derived_id(record.id, "detectors", RULE_VERSIONS["detectors"], digest, index) for index in range(len(begun))]
    return found, ids, us


def _grafts(records: list[Record]) -> list[int]:
    events = [(record.step, codec.decode(record)) for record in records if record.topic == topics.LIFECYCLE]
    return [step for step, event in events if isinstance(event, SeedTransitioned) and event.to_stage is Stage.GRAFTING]


# Results


def _results(judged: list[Judged]) -> dict[str, dict[str, object]]:
    kinds = [kind for kind in FAULTS if any(one.case.kind == kind for one in judged)]
    ours = {kind: _scores(judged, kind, "detectors") for kind in kinds}
    results: dict[str, dict[str, object]] = {kind: dict(scores) for kind, scores in ours.items()}
    compared = {name: {kind: _scores(judged, kind, name) for kind in kinds} for name in ("threshold", "z_score", "chance")}
    clean = [one for one in judged if one.case.kind == CLEAN]
    steps = sum(one.steps for one in clean)
    alarms = Counter(finding.metric for one in clean for finding in one.found)
    grafts = [(one, step) for one in clean for step in one.grafts]
    alarmed = sum(any(step <= finding.step <= step + GRAFTED_STEPS for finding in one.found) for one, step in grafts)
    results["overall"] = {
        "false_alarms_per_10k_steps": round(1e4 * max(alarms.values(), default=0) / steps, 3),
        "false_alarms": dict(alarms),
        "clean_steps": steps,
        "benign_graft_alarm_share": round(alarmed / len(grafts), 4) if grafts else None,
        "benign_grafts": len(grafts),
        "us_per_record": round(median(us for one in judged for us in one.us_per_record), 1),
        **_cost_of_seeds(1000),
        "same_ids_again": all(one.same_ids for one in judged),
        "mean": round(mean(map(_mean_score, ours.values())), 3),
        **{name: round(mean(map(_mean_score, scores.values())), 3) for name, scores in compared.items()},
    }
    results["peers"] = {name: {kind: {**scores} for kind, scores in rows.items()} for name, rows in compared.items()}
    return results


def _cost_of_seeds(count: int) -> dict[str, object]:
    """What a health record of so many seeds takes, and how large its state is as JSON; the numbers in it are made up."""
    random, state, us = np.random.default_rng(0), DetectorState(), []
    for _ in range(30):
        varied = {name: tuple(random.uniform(0.1, 0.9, count).tolist()) for name in SHARES}
        columns = HealthColumns(
            site=tuple(f"layer.{row // 5}" for row in range(count)),
            seed=tuple(row % 5 - 1 if row % 5 else None for row in range(count)),
            stage=(None,) * count,
            latency_ms=(None,) * count,
            units=(64,) * count,
            errors=(0,) * count,
            recovering=(False,) * count,
            alpha=(None,) * count,
            ready=(None,) * count,
            **varied,
        )
        event = SeedHealthMeasured(health=columns, last_adaptation_step=None)
        started = time.process_time_ns()
        state, _ = _detect(state, event.TOPIC, event, DetectorSettings())
        us.append((time.process_time_ns() - started) / 1e3)
    return {"us_per_health_record": round(median(us), 1), "state_bytes": len(_saved(state))}


def _scores(judged: list[Judged], kind: str, name: str) -> dict[str, float | None]:
    detector, horizon = FAULTS[kind].detector, FAULTS[kind].horizon
    faulty = [one for one in judged if one.case.kind == kind]
    clean = {(one.case.training, one.case.rng_seed): one for one in judged if one.case.kind == CLEAN}
    pairs = [(one, clean[one.case.training, one.case.rng_seed]) for one in faulty]
    if name == "chance":
        return _by_chance(pairs, detector, horizon)
    delays, false = [], 0
    for one, beside in pairs:
        within = [step - one.at for step in _steps(one, name, detector) if one.at <= step <= one.at + horizon]
        delays += [min(within)] if within else []
        false += len(_steps(beside, name, detector))
    return _scored(len(delays), len(pairs), false) | {
        "delay_steps": float(median(delays)) if delays else None,
        "delay_p95": round(float(np.quantile(delays, 0.95)), 1) if delays else None,
        "runs": len(pairs),
    }


def _steps(one: Judged, name: str, detector: str) -> list[int]:
    if name == "detectors":
        return [finding.step for finding in one.found if finding.detector == detector]
    return one.peers[f"{name}.{detector}"]


def _by_chance(pairs: list[tuple[Judged, Judged]], detector: str, horizon: int) -> dict[str, float | None]:
    """As many alarms as the detector gave in the two runs of a pair, anywhere in the faulty one; means over many draws."""
    random = np.random.default_rng(len(pairs) + horizon)
    hits, false = 0, 0
    for _ in range(DRAWS):
        for one, beside in pairs:
            count = len(_steps(one, "detectors", detector)) + len(_steps(beside, "detectors", detector))
            alarms = peers.by_chance(count, one.steps, random)
            within = int(np.count_nonzero((alarms >= one.at) & (alarms <= one.at + horizon)))
            hits, false = hits + (within > 0), false + count - within
    return _scored(hits, DRAWS * len(pairs), false) | {"delay_steps": None, "delay_p95": None, "runs": len(pairs)}


def _scored(hits: int, runs: int, false: int) -> dict[str, float | None]:
    return {"recall": round(hits / runs, 3), "precision": round(hits / (hits + false), 3) if hits + false else 0.0}


def _mean_score(scores: dict[str, float | None]) -> float:
    recall, precision = scores["recall"] or 0.0, scores["precision"] or 0.0
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def _show(results: dict[str, dict[str, object]], which: str) -> None:
    console = Console()
    table = Table(title=f"faults in real trainings, {which}")
    for heading in ("fault", "runs", "recall", "precision", "delay, steps", "p95", "threshold", "z-score", "chance"):
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    peer_rows = results.pop("peers")
    overall = results.pop("overall")
    for kind, row in results.items():
        beside = [peer_rows[name][kind] for name in ("threshold", "z_score", "chance")]  # type: ignore[index] # made just above
        cells = [row["runs"], row["recall"], row["precision"], row["delay_steps"], row["delay_p95"]]
        table.add_row(
            kind,
            *(f"{cell:g}" if isinstance(cell, float | int) else "-" for cell in cells),
            *(f"{one['recall']:.2f} / {one['precision']:.2f}" for one in beside),
        )
    console.print(table)
    for name, value in overall.items():
        console.print(f"{name}: {value}")


if __name__ == "__main__":
    main()
