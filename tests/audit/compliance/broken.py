"""Logs that break one check each and no other, those that must not break any, and the runs that a check can say nothing about."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.audit.compliance import changes, tampering
from tests.audit.compliance.forging import Forger
from tests.audit.compliance.tampering import careless, recomputed

Act = Callable[[Path], None]


class Broken(NamedTuple):
    """A finished run to which something was done; `checks` are those that must fail on it, and no other may."""

    name: str
    checks: frozenset[str]
    act: Act


def _broken(check: str, name: str, act: Act) -> Broken:
    return Broken(name, frozenset({check} if check else ()), act)


def _nothing(_folder: Path) -> None:
    """Leaves the run as it is."""


def _tied(change: Callable[[Forger], None]) -> Act:
    """Changes records and ties them again; what stands beside them stays."""

    def act(folder: Path) -> None:
        with Forger(folder) as log:
            change(log)
            log.tie()

    return act


REREAD = "what was read before is altered"
IN_TABLES = "a row of a table is altered"
BROKEN = (
    _broken("", "nothing is done", _nothing),
    _broken("", "health that is no number", recomputed(changes.make_health_nan)),
    _broken("", "an hour earlier", recomputed(changes.move_an_hour)),
    _broken("log.readable", "the file is cut", tampering.cut),
    _broken("log.sequence", "a measurement is missing", _tied(changes.skip_numbers)),
    _broken("log.chain", "a digit is changed", careless(changes.flip_a_digit)),
    _broken("log.chain", "a trace is changed", careless(changes.change_a_trace)),
    _broken("log.chain", "a delivery is altered", tampering.deliver_what_failed),
    _broken("log.tail", "a topic is written anew", tampering.chains_of_its_topic),
    _broken("log.tail", "the mark is of a better run", tampering.improve_the_mark),
    _broken("log.conflict", REREAD, careless(changes.flip_a_digit)),
    _broken("log.conflict", "an older incarnation writes last", recomputed(changes.write_as_a_later_incarnation)),
    _broken("log.clock_sane", "time goes back", recomputed(changes.turn_the_clock_back)),
    _broken("log.schema_known", "an unknown kind", recomputed(changes.an_unknown_kind)),
    _broken("log.schema_known", "a payload is no JSON", recomputed(changes.no_json)),
    _broken("projection.rederivable", IN_TABLES, _nothing),
    _broken("lifecycle.legal_transition", "another seed is blamed", recomputed(changes.blame_another_seed)),
    _broken("lifecycle.caused_by_command", "another command is the cause", recomputed(changes.take_another_command_as_cause)),
    _broken("command.single_outcome", "two outcomes", recomputed(changes.answer_a_command_twice)),
    _broken("command.from_decision", "the decision is about another seed", recomputed(changes.decide_about_another_seed)),
    _broken("decision.thresholds", "a confidence is low", recomputed(changes.lower_a_confidence)),
    _broken("decision.thresholds", "a confidence is NaN", recomputed(changes.make_a_confidence_nan)),
    _broken("decision.explained", "no evidence", recomputed(changes.empty_the_evidence)),
    _broken("decision.explained", "a reason of blanks", recomputed(changes.empty_a_reason)),
    _broken("decision.explained", "evidence from the future", recomputed(changes.evidence_from_the_future)),
    _broken("decision.answered", "a decision without an answer", recomputed(changes.insert_a_decision)),
    _broken("decision.answered", "refused although above the limit", recomputed(changes.raise_an_urgency)),
    _broken("adaptation.max_per_epoch", "the cap was lower", recomputed(changes.lower_the_cap_everywhere)),
    _broken("adaptation.cooldown", "the cooldown was longer", recomputed(changes.raise_the_cooldown_everywhere)),
    _broken("adaptation.cooldown", "adaptations were rarer", recomputed(changes.raise_the_frequency_everywhere)),
    _broken("adaptation.cooldown", "the embargo was longer", recomputed(changes.reset_before_the_embargo_is_over)),
    _broken("settings.change_recorded", "other limits at the start", recomputed(changes.lower_the_limits_at_the_start)),
    _broken("settings.change_recorded", "other limits in an epoch", recomputed(changes.lower_the_limits_of_an_epoch)),
    _broken("health.coverage", "no health", recomputed(changes.hide_health)),
    _broken("alert.complete", "an alert is missing", tampering.remove_an_alert),
    _broken("alert.handled", "a delivery is missing", tampering.remove_a_delivery),
    _broken("run.manifest_complete", "no data", recomputed(changes.forget_the_data)),
    _broken("run.manifest_complete", "no digest of the data", recomputed(changes.forget_the_digest_of_the_data)),
    _broken("run.manifest_complete", "no revision", recomputed(changes.forget_the_code_revision)),
    _broken("run.epochs_complete", "steps are missing", recomputed(changes.delete_telemetry)),
    _broken("run.epochs_complete", "a training loss is NaN", recomputed(changes.make_a_training_loss_nan)),
    _broken("run.epochs_complete", "a training loss is infinite", recomputed(changes.make_a_training_loss_infinite)),
    _broken("checkpoint.attested", "a checkpoint is gone", tampering.remove_checkpoint),
    _broken("checkpoint.attested", "other tensors", tampering.replace_tensors),
    _broken("replay.state", "another stage", recomputed(changes.change_a_stage_in_the_state)),
    _broken("replay.state", "a refused decision is gone", recomputed(changes.delete_a_refused_decision)),
    # What is not a number is below every limit, and no limit: whatever was decided was decided below it.
    Broken(
        "a limit is NaN", frozenset({"decision.thresholds", "settings.change_recorded"}), recomputed(changes.make_a_limit_nan_everywhere)
    ),
)
