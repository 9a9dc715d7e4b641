"""Ways to tamper with a finished run, by someone who has its folder and Esper's source, and knows nothing of what is checked.

What finds each of them is found out by trying. Some change records and leave it at that; some recompute everything that can be recomputed,
so that the log is a whole log again; some change what stands beside the records. The names are those of the table in docs/compliance.md.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from esper.events.digests import digest_of
from tests.audit.compliance import changes
from tests.audit.compliance.forging import MARK, OBSERVED, Forger

_Act = Callable[[Path], None]


class Kind(NamedTuple):
    """A way to tamper: `act` is done to the folder of a finished run."""

    name: str
    act: _Act


def careless(change: Callable[[Forger], None]) -> _Act:
    """Changes records, and leaves it at that."""

    def act(folder: Path) -> None:
        with Forger(folder) as log:
            change(log)

    return act


def recomputed(change: Callable[[Forger], None]) -> _Act:
    """Changes records, then numbers, chains and seals all of them anew."""

    def act(folder: Path) -> None:
        with Forger(folder) as log:
            change(log)
            log.finish()

    return act


def _own_chain(folder: Path) -> None:
    with Forger(folder) as log:
        changes.flip_a_digit(log)
        log.tie([log.one("epoch.completed", 5)])


def chains_of_its_topic(folder: Path) -> None:
    """Changes a payload, and recomputes the chains of its topic."""
    with Forger(folder) as log:
        changes.flip_a_digit(log)
        log.tie([row for row in log.rows if row.topic == "system.events.epoch"])


def _last_records_and_mark(folder: Path) -> None:
    careless(changes.delete_the_last)(folder)
    (folder / MARK).unlink()


def _claim_that_it_was_never_copied(folder: Path) -> None:
    """Deletes telemetry, and writes into the file that it is a copy which never had it."""
    with Forger(folder) as log:
        gone = [row for row in log.rows if row.topic == "telemetry.training.steps" and row.epoch == 11]
        log.remove(gone)
    ranges = [[row.sequence, row.sequence] for row in gone]
    text = json.dumps({"topics": {"telemetry.training.steps": ranges}, "rows": 0, "ends": [], "row": 0, "moment": 0})
    _execute(folder / "run.sqlite", "INSERT OR REPLACE INTO meta VALUES ('gone', ?)", text)


def _execute(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(statement, values)


def _say_that_another_process_wrote_it(folder: Path) -> None:
    _execute(folder / "run.sqlite", "UPDATE meta SET value = 'somebody' WHERE key = 'writer'")


def _say_that_it_is_another_run(folder: Path) -> None:
    _execute(folder / "run.sqlite", "UPDATE meta SET value = 'beef' WHERE key = 'run'")


def cut(folder: Path) -> None:
    """Cuts the end of the file off."""
    path = folder / "run.sqlite"
    path.write_bytes(path.read_bytes()[: -3 * 4096])


def _scribble(folder: Path) -> None:
    path = folder / "run.sqlite"
    content = bytearray(path.read_bytes())
    content[9 * 4096 : 10 * 4096] = bytes(4096)
    path.write_bytes(content)


def _newest_checkpoint(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir())


def replace_tensors(folder: Path) -> None:
    """Puts other weights into the newest checkpoint."""
    (_newest_checkpoint(folder) / "tensors.safetensors").write_bytes(b"other weights")


def _replace_checkpoint(folder: Path) -> None:
    path = _newest_checkpoint(folder) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seeds": []}))


def _replace_checkpoint_in_both(folder: Path) -> None:
    """Puts another checkpoint in place, and its digest into the log."""
    path = _newest_checkpoint(folder) / "manifest.json"
    body = json.loads(path.read_text()) | {"seeds": []}
    path.write_text(json.dumps(body))
    with Forger(folder) as log:
        log.one("checkpoint.saved", -1).change(digest=digest_of(body))
        log.finish()


def remove_checkpoint(folder: Path) -> None:
    """Removes the newest checkpoint."""
    shutil.rmtree(_newest_checkpoint(folder))


def _remove_checkpoint_and_say_so(folder: Path) -> None:
    """Removes a checkpoint, and says in the log that it was pruned."""
    shutil.rmtree(_newest_checkpoint(folder))
    with Forger(folder) as log:
        saved, pruned = log.one("checkpoint.saved", -1), log.one("checkpoint.pruned", -1)
        log.put(pruned, log.like(pruned, checkpoint=saved.payload["checkpoint"]))
        log.finish()


def improve_the_mark(folder: Path) -> None:
    """Writes better metrics into the mark of the seal."""
    mark = json.loads((folder / MARK).read_text())
    mark["summary"]["metrics"] = {"validation_loss": 0.01, "validation_accuracy": 0.999}
    (folder / MARK).write_text(json.dumps(mark))


def _remove_the_mark(folder: Path) -> None:
    (folder / MARK).unlink()


def _remove_what_was_observed(folder: Path) -> None:
    for name in (OBSERVED, "observed.sealed"):
        (folder / name).unlink(missing_ok=True)


def remove_an_alert(folder: Path) -> None:
    """Removes the first alert that fired."""
    _delete_first(folder, "esper.alert.firing.v1")


def remove_a_delivery(folder: Path) -> None:
    """Removes the first delivery."""
    _delete_first(folder, "esper.alert.notified.v1")


def _delete_first(folder: Path, kind: str) -> None:
    statement = "DELETE FROM derived WHERE row = (SELECT min(row) FROM derived WHERE type = ?)"
    _execute(folder / OBSERVED, statement, kind)


def _remove_alerts(folder: Path) -> None:
    _execute(folder / OBSERVED, "DELETE FROM derived WHERE topic = 'observability.alerts'")


def _remove_anomalies(folder: Path) -> None:
    _execute(folder / OBSERVED, "DELETE FROM derived WHERE topic = 'observability.anomalies'")


def deliver_what_failed(folder: Path) -> None:
    """Says that deliveries succeeded which failed."""
    altered = """CAST(replace(data, '"failed"', '"delivered"') AS BLOB)"""
    _execute(folder / OBSERVED, f"UPDATE derived SET data = {altered} WHERE type = 'esper.alert.notified.v1'")  # noqa: S608


def _delay_deliveries(folder: Path) -> None:
    _execute(folder / OBSERVED, "UPDATE derived SET time = time + 1800000000 WHERE type = 'esper.alert.notified.v1'")


KINDS = (
    Kind("a fact is deleted", careless(changes.delete_a_fact)),
    Kind("a fact is deleted, the rest numbered anew", careless(changes.renumber_after_a_deletion)),
    Kind("telemetry is deleted", careless(changes.delete_telemetry)),
    Kind("the last 20 records are deleted", careless(changes.delete_the_last)),
    Kind("the last 20 records are deleted, and the mark of the seal", _last_records_and_mark),
    Kind("a topic of facts is deleted", careless(changes.delete_a_topic_of_facts)),
    Kind("a topic of telemetry is deleted", careless(changes.delete_a_topic_of_telemetry)),
    Kind("an epoch is deleted", careless(changes.delete_an_epoch)),
    Kind("a digit of a payload is changed", careless(changes.flip_a_digit)),
    Kind("a digit of a payload is changed, its chain recomputed", _own_chain),
    Kind("a digit of a payload is changed, the chains of its topic recomputed", chains_of_its_topic),
    Kind("the payloads of two decisions are swapped", careless(changes.swap_payloads)),
    Kind("two records are swapped", careless(changes.swap_places)),
    Kind("a record stands twice", careless(changes.double_a_record)),
    Kind("a record is put behind the end", careless(changes.append_a_record)),
    Kind("the clock goes back in the middle", careless(changes.turn_the_clock_back)),
    Kind("all times are an hour earlier", careless(changes.move_an_hour)),
    Kind("the epoch of some records is changed", careless(changes.change_an_epoch)),
    Kind("the step of some records is changed", careless(changes.change_a_step)),
    Kind("the cause of a command is changed", careless(changes.change_a_cause)),
    Kind("a failed command is said to be refused", careless(changes.change_a_kind)),
    Kind("the incarnation of a record is changed", careless(changes.change_an_incarnation)),
    Kind("the trace of a record is changed", careless(changes.change_a_trace)),
    Kind("a decision is inserted", careless(changes.insert_a_decision)),
    Kind("a record is of an unknown kind", careless(changes.an_unknown_kind)),
    Kind("a payload is no JSON", careless(changes.no_json)),
    Kind("a payload is no UTF-8", careless(changes.no_utf8)),
    Kind("a payload has a key twice", careless(changes.a_key_twice)),
    Kind("a payload has a field too many", careless(changes.a_field_too_many)),
    Kind("the epochs are those of another run", careless(changes.take_epochs_of_another_run)),
    Kind("the file says that another process wrote it", _say_that_another_process_wrote_it),
    Kind("the file says that it is another run's", _say_that_it_is_another_run),
    Kind("telemetry is deleted, and said to have been deleted on Kafka", _claim_that_it_was_never_copied),
    Kind("the file is cut", cut),
    Kind("a page of the file is overwritten", _scribble),
    Kind("all recomputed: a fact is deleted", recomputed(changes.delete_a_fact)),
    Kind("all recomputed: telemetry is deleted", recomputed(changes.delete_telemetry)),
    Kind("all recomputed: a topic of facts is deleted", recomputed(changes.delete_a_topic_of_facts)),
    Kind("all recomputed: an epoch is deleted", recomputed(changes.delete_an_epoch)),
    Kind("all recomputed: the last epoch is deleted", recomputed(changes.delete_the_last_epoch_and_end_again)),
    Kind("all recomputed: a digit of a payload is changed", recomputed(changes.flip_a_digit)),
    Kind("all recomputed: all times are an hour earlier", recomputed(changes.move_an_hour)),
    Kind("all recomputed: the clock goes back in the middle", recomputed(changes.turn_the_clock_back)),
    Kind("all recomputed: an outcome is deleted", recomputed(changes.delete_an_outcome)),
    Kind("all recomputed: an outcome is inserted", recomputed(changes.insert_an_outcome)),
    Kind("all recomputed: a command is inserted", recomputed(changes.insert_a_command)),
    Kind("all recomputed: a decision is inserted", recomputed(changes.insert_a_decision)),
    Kind("all recomputed: a transition is inserted", recomputed(changes.insert_a_transition)),
    Kind("all recomputed: a refusal is removed", recomputed(changes.delete_a_refusal)),
    Kind("all recomputed: a refused decision and its refusal are removed", recomputed(changes.delete_a_refused_decision)),
    Kind("all recomputed: a decision that was refused for its urgency passes", recomputed(changes.let_a_refused_decision_pass)),
    Kind("all recomputed: a decision that was refused by the cap passes", recomputed(changes.let_a_capped_decision_pass)),
    Kind("all recomputed: the urgency of a refused decision is raised", recomputed(changes.raise_an_urgency)),
    Kind("all recomputed: the confidence of a graft is lowered", recomputed(changes.lower_a_confidence)),
    Kind("all recomputed: the confidence of a graft is NaN", recomputed(changes.make_a_confidence_nan)),
    Kind("all recomputed: a decision has no evidence", recomputed(changes.empty_the_evidence)),
    Kind("all recomputed: a decision follows from the future", recomputed(changes.evidence_from_the_future)),
    Kind("all recomputed: the reason of a cull is rewritten", recomputed(changes.rewrite_a_reason)),
    Kind("all recomputed: the limits are lowered in RunStarted", recomputed(changes.lower_the_limits_at_the_start)),
    Kind("all recomputed: the limits are lowered in one epoch", recomputed(changes.lower_the_limits_of_an_epoch)),
    Kind("all recomputed: the limits are lowered everywhere", recomputed(changes.lower_the_limits_everywhere)),
    Kind("all recomputed: the validation loss of an epoch is NaN", recomputed(changes.make_a_loss_nan)),
    Kind("all recomputed: a loss that was NaN is finite", recomputed(changes.make_a_nan_finite)),
    Kind("all recomputed: the last losses are better", recomputed(changes.improve_the_last_losses)),
    Kind("all recomputed: a rollback is removed", recomputed(changes.delete_a_rollback)),
    Kind("all recomputed: a rollback blames another seed", recomputed(changes.blame_another_seed)),
    Kind("all recomputed: an epoch has no health of its seeds", recomputed(changes.hide_health)),
    Kind("all recomputed: a seed has another stage at an epoch's end", recomputed(changes.change_a_stage_in_the_state)),
    Kind("all recomputed: a seed was reset before its embargo was over", recomputed(changes.reset_before_the_embargo_is_over)),
    Kind("all recomputed: an evaluation is deleted", recomputed(changes.delete_an_evaluation)),
    Kind("all recomputed: the count of dropped samples is deleted", recomputed(changes.delete_a_count_of_dropped_samples)),
    Kind("all recomputed: the data are not named", recomputed(changes.forget_the_data)),
    Kind("all recomputed: the code is another revision", recomputed(changes.change_the_code_revision)),
    Kind("all recomputed: the rng seed is another", recomputed(changes.change_the_rng_seed)),
    Kind("all recomputed: the final model has another digest", recomputed(changes.change_the_model_digest)),
    Kind("all recomputed: a checkpoint has another digest", recomputed(changes.change_a_checkpoint_s_digest)),
    Kind("all recomputed: a record is of an unknown kind", recomputed(changes.an_unknown_kind)),
    Kind("all recomputed: a finished run has failed", recomputed(changes.fail_the_run)),
    Kind("all recomputed: an epoch follows the end", recomputed(changes.go_on_after_the_end)),
    Kind("the tensors of a checkpoint are replaced", replace_tensors),
    Kind("a checkpoint is replaced", _replace_checkpoint),
    Kind("a checkpoint is replaced, and its digest in the log, all recomputed", _replace_checkpoint_in_both),
    Kind("a checkpoint is removed", remove_checkpoint),
    Kind("a checkpoint is removed, and said to be pruned, all recomputed", _remove_checkpoint_and_say_so),
    Kind("the metrics in the mark of the seal are better", improve_the_mark),
    Kind("the mark of the seal is removed", _remove_the_mark),
    Kind("what was observed is removed", _remove_what_was_observed),
    Kind("an alert is removed", remove_an_alert),
    Kind("all alerts are removed", _remove_alerts),
    Kind("failed deliveries are said to have succeeded", deliver_what_failed),
    Kind("a delivery is removed", remove_a_delivery),
    Kind("deliveries are half an hour late", _delay_deliveries),
    Kind("anomalies are removed", _remove_anomalies),
)
"""Every way, in the order of the table."""
