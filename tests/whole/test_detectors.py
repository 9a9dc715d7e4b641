"""A real training goes wrong, and its log shows it: what is found, where, and nothing before."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper.api.task import recipe_of
from esper.demo.tasks import find_task
from esper.events import codec, topics
from esper.folds.monitoring.detectors.detect import DetectorState
from esper.folds.monitoring.detectors.thresholds import DetectorSettings
from esper.oona.directory import Directory
from esper.processes.recipe import run_settings
from esper.processes.train import fresh_run_id, train
from esper.tolaria.objective import Batches
from tests.folds.monitoring.made_up import detect

ROOT = Path(__file__).parents[2]
WRONG_BATCH, NAN_BATCH = 460, 620

pytestmark = pytest.mark.whole


class Faulty:
    """Batches of which two are wrong: one has the answers of other samples, a later one an input that is not a number."""

    def __init__(self, batches: Batches) -> None:
        self._batches, self._count = batches, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            assert isinstance(batch, tuple)
            inputs, targets = batch
            self._count += 1
            if self._count == WRONG_BATCH:
                targets = (targets + 5) % 10
            yield torch.full_like(inputs, math.nan) if self._count == NAN_BATCH else inputs, targets


def found(directory: Directory, *, faulty: bool) -> list[tuple[str, str, int]]:
    """(detector, metric, step of the record) of everything that is found in forty epochs of digits, eighteen steps each."""
    task = find_task("digits")
    settings = run_settings(task.settings, {"growth.enabled": False, "trainer.epochs": 40})
    recipe = recipe_of(task, settings)
    if faulty:
        recipe = replace(recipe, train=Faulty(recipe.train))
    run = train(recipe, settings, directory, fresh_run_id()).run
    state, said = DetectorState(), []
    with directory.open(run) as log:
        for record in log.read(limit=100_000, topics=frozenset({topics.STEPS})).records:
            state, begun = detect(state, record.topic, codec.decode(record), DetectorSettings())
            said += [(one.detector, one.metric, record.step) for one in begun]
    return said


def test_a_wrong_batch_and_a_value_that_is_not_finite_are_found_in_the_record_of_their_step(tmp_path: Path) -> None:
    said = found(Directory(tmp_path, create=True), faulty=True)
    assert [(detector, metric) for detector, metric, _ in said[:1]] == [("spike", "loss")]
    assert WRONG_BATCH <= said[0][2] < WRONG_BATCH + 10
    broken = [(metric, step) for detector, metric, step in said if detector == "nonfinite"]
    assert broken[0][0] == "gradient_norm"
    assert {metric for metric, _ in broken} >= {"gradient_norm", "loss"}
    assert all(NAN_BATCH <= step < NAN_BATCH + 10 for _, step in broken)


def test_the_same_training_without_faults_raises_nothing(tmp_path: Path) -> None:
    assert found(Directory(tmp_path, create=True), faulty=False) == []


def test_the_benchmark_finds_its_faults() -> None:
    command = (sys.executable, ROOT / "benchmarks" / "detect.py", "--quick", "--json")
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert {kind: told[kind]["recall"] for kind in ("nan", "gradient_explosion", "step_drift")} == dict.fromkeys(told.keys() - _OTHERS, 1.0)
    assert told["overall"]["false_alarms"] == {}
    assert told["overall"]["same_ids_again"] is True
    assert told["overall"]["mean"] > max(told["overall"][peer] for peer in ("threshold", "z_score", "chance"))


_OTHERS = {"overall", "peers"}
