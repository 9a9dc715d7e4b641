"""Each answer says what the rows have, and says what is unknown."""

from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pytest

from esper.audit.report.making import Report
from esper.audit.report.questions import QUESTIONS
from esper.audit.report.sentences import LOG_CHECKS
from esper.events.kinds.run import Code, Determinism
from esper.events.kinds.training_description import Source
from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.audit.report.reports import DIGEST, NOW, answers, failed, passed, projected, report_of
from tests.beginnings import run_started, training_described
from tests.synthetic import RUN, ticking, write_run

pytestmark = pytest.mark.whole

GOLDEN = {
    1: "The model went from 460 to 1,030 parameters in 15 changes (6 germinations, 2 grafts, 2 fossilizations, 1 cull, 3 cancellations and "
    "1 rollback); seeds that are part of it for good: site hidden.2 slot 0 lowrank:8 (epoch 12); each change names its evidence, all under "
    "the same limits.",
    2: "The gate refused 3 of 34 decisions (1 for urgency, 1 for cap, 1 for finite), 1 command failed and 3 kernels could not be made; "
    "each has its reason below.",
    3: "Ada Example started the run with its limits under the account ada, and Grace Example approved them: two different names; the "
    "limits were the same from epoch 1 to 14.",
    4: "It can be identified in part; for a repeat, the log lacks description of the training and the data themselves have to be at hand "
    "(1 data set, known by digests); whether it gives the same bits was not tried here.",
    5: "8 alerts fired (7 warning, 1 critical): of 8 no delivery is on record; all are resolved.",
    6: "3 samples were dropped before being taken and 3 of 252 steps have no measurement.",
    8: "Unknown: no file was given to compare; the digest of the model that came out begins with db35ffe9f70fd855.",
    9: "No hold of this run is in force; its directory is kept until somebody removes it, and of a copy on Kafka the last records with a "
    "term go at 2026-03-31 12:00:05.",
    10: "1 rollback: from epoch 11 to the end of epoch 8, checkpoint epoch-000008: the loss is not finite: NaN.",
    11: "No date was asked for: at its last record this run had finished, in epoch 14, with validation loss 0.2285; seeds: 1 cancelled, "
    "1 fossilized, 1 rolled back, 1 training; last record by then: 2026-03-01 12:00:05.",
    12: "The model that came out was measured on the validation data alone: validation_accuracy 0.9393 and validation_loss 0.2285; "
    "nobody's acceptance is on record.",
}


@pytest.mark.parametrize("number", GOLDEN)
def test_the_synthetic_run_is_told_in_these_words(plain: Report, number: int) -> None:
    assert answers(plain)[number] == GOLDEN[number]


def test_no_answer_calls_anything_compliant(plain: Report) -> None:
    said = [*answers(plain).values(), *(question.cannot_show for question in QUESTIONS)]
    assert [sentence for sentence in said if "complian" in sentence.lower()] == []


def test_every_question_is_answered_of_a_run_that_is_not_there(told: duckdb.DuckDBPyConnection) -> None:
    said = answers(report_of(told, run="nowhere"))
    assert sorted(said) == list(range(1, 13))
    assert [one for one in said.values() if not one.startswith(("Unknown", "Nothing", "No ")) or not one.endswith(".")] == []


def test_every_question_is_answered_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, until_epoch=0, finish=False, telemetry=False)
    with projected(directory.path, tmp_path) as made:
        said = answers(report_of(made.connection))
    assert [number for number in range(1, 13) if not said[number].endswith(".")] == []
    assert said[1] == "Nothing changed in the structure of this model: it began with 460 parameters and has 460."


def test_a_structure_that_a_rollback_alone_touched_rests_on_no_decision(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("DELETE FROM outcomes")
    assert answers(report_of(changed))[1].endswith(
        "(1 rollback); seeds that are part of it for good: site hidden.2 slot 0 lowrank:8 (epoch 12); nothing of it was decided."
    )


# 2: what was refused


def test_a_decision_without_an_outcome_is_no_decision_that_was_carried_out(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("DELETE FROM outcomes")
    said = answers(report_of(changed))[2]
    assert said == "3 kernels could not be made; each has its reason below; of all decisions, 33 have no outcome on record."
    changed.execute("DELETE FROM kernels")
    assert answers(report_of(changed))[2] == "Nothing was refused: of 34 decisions, 33 have no outcome on record."


# 3: who set the limits


@pytest.mark.parametrize(
    ("author", "approver", "said"),
    [
        ("Ada", "Grace", "Ada started the run with its limits, and Grace approved them: two different names"),
        (
            "Ada  Lovelace",
            "ada lovelace",
            "Ada  Lovelace started the run with its limits, and ada lovelace approved them: one and the same name",
        ),
        ("Ada", None, "Ada started the run with its limits, and who approved them is unknown"),
        (None, "Grace", "Grace approved the limits, and who set them is unknown"),
        (None, None, "Unknown: the log names neither who started the run with its limits, nor who approved them"),
    ],
)
def test_author_and_approver_are_told_apart_by_name(
    changed: duckdb.DuckDBPyConnection, author: str | None, approver: str | None, said: str
) -> None:
    changed.execute('UPDATE runs SET "by" = ?, approved_by = ?, account = NULL', [author, approver])
    assert answers(report_of(changed))[3].startswith(f"{said}; the limits were")


def test_a_limit_that_changes_is_named(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("UPDATE epochs SET system_gate_cooldown = 0 WHERE epoch > 9")
    assert "; cooldown changed during the run, and the log names nobody who changed them." in answers(report_of(changed))[3]
    assert "all under 2 different sets of limits" in answers(report_of(changed))[1]


def test_a_limit_that_was_another_from_the_first_epoch_on_is_named(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("UPDATE epochs SET system_gate_urgency_above = 0.25")
    assert answers(report_of(changed))[3].endswith("from epoch 1 to 14; urgency above was in force otherwise than set at the start.")


# 4: identity


def test_what_a_repeat_lacks_is_named(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("UPDATE runs SET code_revision = NULL, determinism_mkl_cbwr = NULL, code_dirty_digest = ?", [DIGEST])
    said = answers(report_of(changed))[4]
    assert said.startswith("It can be identified in part; for a repeat, the log lacks revision and description of the training, code path")
    assert "uncommitted changes that are known by their digest alone" in said


def identified(folder: Path, **described: object) -> Report:
    """The report of a run whose code was changed, and that was described so."""
    directory = Directory(folder / "log", create=True)
    code = Code(revision="0" * 40, dirty_digest=DIGEST, argv=("train.py",))
    with directory.create(RUN) as log, Emitter(log, RUN, clock=ticking()) as emitter:
        emitter.emit(run_started(code=code, packages={"torch": "2"}, settings={"a": 1}, determinism=PINNED), epoch=0, step=0)
        emitter.emit(training_described(**described), epoch=0, step=0)
    with projected(directory.path, folder) as made:
        return report_of(made.connection)


PINNED = Determinism(threads=1, deterministic_algorithms=True, mkl_cbwr="AVX2,STRICT", variables={}, digest="full")


def test_changes_that_stand_in_the_log_are_no_longer_known_by_their_digest_alone(tmp_path: Path) -> None:
    diff = Source(name="git diff", text="-1", size_bytes=2, digest=DIGEST, complete=True, masked=0)
    rows = identified(tmp_path, sources=(diff,))
    assert "the log lacks data sets" in answers(rows)[4]
    assert "uncommitted" not in answers(rows)[4]


def test_changes_that_were_cut_are_known_by_their_digest_alone(tmp_path: Path) -> None:
    diff = Source(name="git diff", text="-", size_bytes=2, digest=DIGEST, complete=False, masked=0)
    assert "uncommitted changes that are known by their digest alone" in answers(identified(tmp_path, sources=(diff,)))[4]


def test_optimizer_loss_and_model_are_pieces_of_what_a_repeat_needs(tmp_path: Path) -> None:
    section = next(section for section in identified(tmp_path).sections if section.number == 4)
    pieces = {row[1]: row[2] for row in section.tables[0].rows}
    assert pieces["optimizer"] == "torch.optim.adam.Adam, 0 groups of parameters"
    assert (pieces["loss"], pieces["scheduler"]) == ("torch.nn.functional.mse_loss", "none")


# 5: alerts


def test_alerts_are_unknown_of_a_run_that_nobody_observed(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("DELETE FROM observers")
    changed.execute("DELETE FROM alerts")
    assert answers(report_of(changed))[5] == "Unknown: nobody observed this run, so no alert could fire."
    assert answers(report_of(changed))[6].startswith("Nobody observed the run; 3 samples")


def test_no_alert_is_an_answer_where_somebody_watched(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("DELETE FROM alerts")
    assert answers(report_of(changed))[5] == "No alert fired."


def test_what_became_of_each_alert_is_counted(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("""
        INSERT INTO notifications (run, moment, time, id, status, alert, handler, outcome, why)
        SELECT
            run, moment, time, 'told/' || place, if(place = 2, 'suppressed', 'notified'), id, 'page',
            ['delivered', 'failed', NULL][place + 1], if(place = 2, 'rate_limit', NULL)
        FROM (SELECT *, row_number() OVER (ORDER BY time, id) - 1 AS place FROM alerts WHERE status = 'firing') WHERE place < 3
    """)
    said = "1 reached a receiver, 1 could not be delivered, 1 was held back and of 5 no delivery is on record"
    assert said in answers(report_of(changed))[5]


# 6: dark


def test_the_time_before_a_resume_is_dark(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("UPDATE events SET time = time + INTERVAL 150 SECOND WHERE moment > 100 AND file = 'run'")
    assert answers(report_of(changed))[6].startswith("Nothing was recorded for 2 min 30 s in 1 interval, 3 samples")


def test_epochs_that_no_observer_came_to_are_dark_and_raise_no_alert(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("DELETE FROM events WHERE file = 'observed' AND moment > 100")
    changed.execute("DELETE FROM alerts")
    said = answers(report_of(changed))
    assert said[5] == "No alert fired; no observer came to the last 7 epochs."
    assert said[6].endswith("have no measurement and no observer came to the last 7 epochs.")


def test_what_kafka_had_deleted_is_counted(changed: duckdb.DuckDBPyConnection) -> None:
    gone = '{"topics":{"telemetry.training.steps":[[3,5],[9,9]]},"rows":0,"ends":[],"row":0,"moment":0}'
    changed.execute("UPDATE positions SET gone = ? WHERE file = 'run'", [gone])
    assert "4 records were deleted on Kafka before being copied" in answers(report_of(changed))[6]


def test_a_run_that_stopped_without_an_end_is_dark_since_then(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, until_epoch=9, finish=False)
    with projected(directory.path, tmp_path) as made:
        said = answers(report_of(made.connection))[6]
    assert said.startswith("Nobody observed the run; the run has no end, and nothing of it is on record since 2026-03-01 12:00:0")


# 7: integrity


def test_integrity_is_unknown_without_checks(told: duckdb.DuckDBPyConnection) -> None:
    said = answers(report_of(told, passed(*LOG_CHECKS[1:])))[7]
    assert said.startswith("Unknown: log.readable did not run; no earlier check of the chain is on record")


def test_a_check_that_found_something_is_named(told: duckdb.DuckDBPyConnection) -> None:
    results = [*passed(*LOG_CHECKS[1:]), failed("log.readable", 3, "it ends there")]
    assert answers(report_of(told, results))[7] == "Yes: log.readable found 1 violation."


def test_records_that_changed_behind_the_log_are_told(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute(
        "INSERT INTO conflicts VALUES (?, 'run', 9, 'system.events.run', 9, 'altered', ?, ?)", [RUN, DIGEST, datetime(2026, 3, 2)]
    )
    assert answers(report_of(changed, passed(*LOG_CHECKS)))[7] == "Yes: records changed after they had been read (1 altered)."


def test_what_holds_is_told_since_the_first_check_on_record(changed: duckdb.DuckDBPyConnection) -> None:
    checked = datetime(2026, 3, 1, 18)
    changed.execute(
        "INSERT INTO checks (run, moment, time, about, check_name, result, up_to) VALUES (?, 1, ?, ?, ?, ?, 9)",
        ["audit:a:1", checked, RUN, "log.chain", "PASS"],
    )
    said = answers(report_of(changed, passed(*LOG_CHECKS)))[7]
    assert said.startswith(
        "No check found anything missing or altered in 274 records; the first check of the chain on record is of 2026-03-01 18:00:00"
    )


# 9: holds


def hold(connection: duckdb.DuckDBPyConnection, second: int, status: str, until: str | None = None, run: str = RUN) -> None:
    connection.execute(
        'INSERT INTO holds (run, moment, time, about, status, until, why, "by") VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        ["audit:a:1", second, datetime(2026, 3, 1, 18, 0, second), run, status, until, "a claim", "Legal"],
    )


def test_a_hold_in_force_is_told_with_its_reason(changed: duckdb.DuckDBPyConnection) -> None:
    hold(changed, 1, "held", "2026-03-02")
    hold(changed, 2, "held", None, run="another")
    said = "This run is under 1 hold: until 2026-03-02 (a claim, Legal); nothing of it may be deleted before. 1 other run is under a hold."
    assert answers(report_of(changed))[9] == said


@pytest.mark.parametrize(("status", "until"), [("released", None), ("held", "2026-03-01")])
def test_a_hold_ends_with_its_day_or_its_release(changed: duckdb.DuckDBPyConnection, status: str, until: str | None) -> None:
    hold(changed, 1, "held", until)
    if status == "released":
        hold(changed, 2, status)
    assert answers(report_of(changed))[9].startswith("No hold of this run is in force")


def test_holds_are_unknown_where_the_trail_cannot_be_read(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("INSERT INTO positions (run, file, problem) VALUES ('audit:a:1', 'run', 'it is damaged')")
    assert answers(report_of(changed))[9].startswith("Unknown: a part of the trail")
    assert "whether it was accepted is unknown" in answers(report_of(changed))[12]


# 10: corrections


def test_a_resume_is_told_with_its_reason(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("""
        INSERT INTO resumes (run, moment, time, epoch, checkpoint, caught_up_to, incarnation, environment_changes)
        SELECT run, 200, time + INTERVAL 5 SECOND, 12, 'epoch-000008', 190, 2, [] FROM runs
    """)
    said = answers(report_of(changed))[10]
    assert said.startswith("1 rollback and 1 resume: from epoch 11")
    assert said.endswith("from epoch-000008, caught up to moment 190: its process was gone without a word.")


# 11: the state on a date


def test_a_date_before_the_run_has_no_state(told: duckdb.DuckDBPyConnection) -> None:
    assert answers(report_of(told, on=date(2026, 2, 28)))[11] == "At the end of 2026-02-28 (UTC) this run had not begun."


def test_a_run_that_stopped_is_told_as_not_heard(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "log", create=True)
    write_run(directory, until_epoch=9, finish=False)
    with projected(directory.path, tmp_path) as made:
        said = answers(report_of(made.connection, on=date(2026, 3, 1), now=datetime(2026, 3, 4, tzinfo=UTC)))[11]
    assert said.startswith("At the end of 2026-03-01 (UTC) this run had not ended, and had not been heard for 11 h 59 min, in epoch 9")


def test_a_day_that_is_not_over_is_told_as_such(told: duckdb.DuckDBPyConnection) -> None:
    said = answers(report_of(told, on=NOW.date()))[11]
    assert said.startswith("2026-03-02 (UTC) is not over: so far this run had finished")


def test_the_state_of_a_run_that_cannot_be_read_is_unknown(told: duckdb.DuckDBPyConnection) -> None:
    assert answers(report_of(told, run="nowhere", on=date(2026, 3, 1)))[11] == "Unknown: nothing of this run is on record."


# 12: acceptance


ACCEPTED = {
    "the one that came out": ("model_digest", "it was accepted by Grace (quality) on 2026-03-01."),
    "another": (f"'{DIGEST}'", "another model than the one that came out was accepted by Grace (quality) on 2026-03-01."),
    "a failure before": ("NULL", "a failure of the run was accepted by Grace (quality) on 2026-03-01."),
}


@pytest.mark.parametrize("digest", ACCEPTED)
def test_who_accepted_is_told_and_what(changed: duckdb.DuckDBPyConnection, digest: str) -> None:
    accepted, said = ACCEPTED[digest]
    changed.execute(f"""
        INSERT INTO sign_offs (run, moment, time, about, "by", role, note, model_digest)
        SELECT 'audit:a:1', 1, TIMESTAMP '2026-03-01 18:00:00', run, 'Grace', 'quality', 'a pilot', {accepted} FROM run_ends
    """)  # noqa: S608 - of our own.
    assert answers(report_of(changed))[12].endswith(f"; {said}")


def test_the_model_that_came_out_is_known_though_the_start_of_the_run_is_not(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("""
        INSERT INTO sign_offs (run, moment, time, about, "by", role, note, model_digest)
        SELECT 'audit:a:1', 1, TIMESTAMP '2026-03-01 18:00:00', run, 'Grace', 'quality', 'a pilot', model_digest FROM run_ends
    """)
    changed.execute("DELETE FROM runs")
    assert answers(report_of(changed))[8].endswith("the digest of the model that came out begins with db35ffe9f70fd855.")
    assert answers(report_of(changed))[12].endswith("; it was accepted by Grace (quality) on 2026-03-01.")


def test_test_data_are_told_from_validation_data_though_no_data_set_is_named(changed: duckdb.DuckDBPyConnection) -> None:
    changed.execute("UPDATE run_ends SET metrics = MAP {'test_loss': 0.25, 'validation_loss': 0.5}")
    changed.execute("UPDATE runs SET data = []")
    assert answers(report_of(changed))[12].startswith("The model that came out was measured on the test data: test_loss 0.25; ")
