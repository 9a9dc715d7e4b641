"""Where there is nothing to ask about a check is INCONCLUSIVE, never PASS; what a run may lack is no violation."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import JsonValue

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.running import Verdict
from esper.events.envelope import Record
from esper.events.kinds.control import Adaptation
from esper.events.kinds.epoch import GateSettings
from esper.events.kinds.run import Code, DataFingerprint, RunFinished
from esper.events.kinds.training_description import Source, TrainingDescribed
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from esper.oona.file import MIRRORED_MARK, RUN_FILE
from tests.audit.compliance.asking import ask, named
from tests.audit.compliance.finished import SAVED, observe, save_checkpoints, write_finished
from tests.audit.compliance.forging import Forger
from tests.beginnings import run_started, training_described
from tests.folds.histories import completed, decision
from tests.synthetic import RUN, ticking, write_run

pytestmark = pytest.mark.whole
NAMES = {check.name for check in every_check()}
ABOUT_FILES = {"log.readable"}
ABOUT_RECORDS = {"log.sequence", "log.chain", "log.clock_sane", "log.schema_known", "log.conflict", "projection.rederivable"}
ABOUT_EPOCHS = {"run.epochs_complete", "replay.state", "settings.change_recorded", "decision.explained"}
ABOUT_ENDS = {"log.tail", "run.manifest_complete"}
SOURCE = Source(name="train.py", text="print()", size_bytes=7, digest="ab" * 32, complete=True, masked=0)


def test_nothing_can_be_said_of_a_run_that_is_not_there(directory: Directory, empty_projection: Path) -> None:
    assert named(ask(directory, RUN, empty_projection), Verdict.INCONCLUSIVE) == NAMES


def test_of_a_run_without_records_only_its_file_can_be_asked_about(directory: Directory, empty_projection: Path) -> None:
    directory.create(RUN).close()
    results = ask(directory, RUN, empty_projection)
    assert named(results, Verdict.PASS) == ABOUT_FILES
    assert named(results, Verdict.INCONCLUSIVE) == NAMES - ABOUT_FILES


def test_of_a_run_that_only_began_its_records_can_be_asked_about(directory: Directory, empty_projection: Path) -> None:
    with directory.create(RUN) as log, Emitter(log, RUN, clock=ticking()) as emitter:
        emitter.emit(run_started(), epoch=0, step=0)
    results = ask(directory, RUN, empty_projection)
    assert named(results, Verdict.PASS) == ABOUT_FILES | ABOUT_RECORDS
    assert named(results, Verdict.INCONCLUSIVE) == NAMES - ABOUT_FILES - ABOUT_RECORDS


def test_of_a_run_in_which_nothing_grew_no_adaptation_can_be_asked_about(directory: Directory, empty_projection: Path) -> None:
    plain_run(directory)
    results = ask(directory, RUN, empty_projection)
    assert named(results, Verdict.PASS) == ABOUT_FILES | ABOUT_RECORDS | ABOUT_EPOCHS | ABOUT_ENDS
    assert named(results, Verdict.INCONCLUSIVE) == NAMES - ABOUT_FILES - ABOUT_RECORDS - ABOUT_EPOCHS - ABOUT_ENDS


@pytest.mark.parametrize("epoch", [4, 8, 11, 12])
def test_a_run_that_goes_on_breaks_nothing(directory: Directory, empty_projection: Path, epoch: int) -> None:
    write_run(directory, until_epoch=epoch, finish=False)
    observe(directory, [RUN])
    save_checkpoints(directory, RUN, SAVED)
    assert named(ask(directory, RUN, empty_projection), Verdict.FAIL) == set()


@pytest.mark.parametrize("end", [1, 2, 33, 34, 36, 41, 189, 190, 199])
def test_a_run_that_was_killed_at_any_record_breaks_nothing(
    directory: Directory, empty_projection: Path, records: tuple[Record, ...], end: int
) -> None:
    with directory.create(RUN) as log:
        log.append(records[:end])
    observe(directory, [RUN])
    save_checkpoints(directory, RUN, SAVED)
    assert named(ask(directory, RUN, empty_projection), Verdict.FAIL) == set()


@pytest.mark.parametrize(
    "gone", [("telemetry.seed.health", 1, 3), ("telemetry.training.steps", 5, 6), ("telemetry.seed.health", 14, 15)], ids=str
)
def test_telemetry_that_kafka_had_deleted_is_left_out(directory: Directory, empty_projection: Path, gone: tuple[str, int, int]) -> None:
    [run] = write_finished(directory)
    topic, first, last = gone
    with Forger(directory.path / run) as log:
        log.remove([row for row in log.rows if row.topic == topic and first <= row.sequence <= last])
    copied = {"topics": {topic: [[first, last]]}, "rows": 0, "ends": [], "row": 0, "moment": 0}
    with closing(sqlite3.connect(directory.path / run / RUN_FILE)) as file, file:
        file.execute("INSERT INTO meta VALUES ('gone', ?)", (json.dumps(copied),))
    assert named(ask(directory, run, empty_projection), Verdict.FAIL) == set()


def test_the_checkpoints_of_a_copy_from_kafka_are_not_asked_about(directory: Directory, empty_projection: Path) -> None:
    write_run(directory)
    (directory.path / RUN / MIRRORED_MARK).touch()
    assert ask(directory, RUN, empty_projection)["checkpoint.attested"].verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(("sources", "verdict"), [((), Verdict.PASS), ((SOURCE,), Verdict.PASS), (None, Verdict.FAIL)])
def test_code_without_a_revision_is_known_by_its_source(
    directory: Directory, empty_projection: Path, sources: tuple[Source, ...] | None, verdict: Verdict
) -> None:
    """An empty list says that all of it is of installed packages."""
    plain_run(directory, None, training_described(sources=sources))
    assert "run.manifest_complete" in named(ask(directory, RUN, empty_projection), verdict)


def plain_run(directory: Directory, revision: str | None = "0" * 40, description: TrainingDescribed | None = None) -> None:
    """Writes a run without sites, in which nothing is decided but to do nothing; its limits are the defaults."""
    limits: dict[str, JsonValue] = {f"gate.{name}": value for name, value in GateSettings()}
    data = (DataFingerprint(name="train", length=10, kind="tensors", digest="ab" * 32),)
    with directory.create(RUN) as log, Emitter(log, RUN, clock=ticking()) as emitter:
        code = Code(revision=revision, dirty_digest=None, argv=())
        emitter.emit(run_started(settings=limits, code=code, data=data, packages={"torch": "2"}), epoch=0, step=0)
        if description is not None:
            emitter.emit(description, epoch=0, step=0)
        for epoch in (1, 2, 3):
            evidence = emitter.emit(completed(epoch), epoch=epoch, step=10 * epoch)
            emitter.emit(decision(Adaptation.NONE, evidence, None, None), epoch=epoch, step=10 * epoch)
        tails = emitter.tails(epoch=3, step=30)
        end = RunFinished(metrics={}, model_digest="ab" * 32, parameters=100, stopped_early=False, tails=tails)
        emitter.emit(end, epoch=3, step=30)
