"""The twelve questions: each with the statements that give its rows, the checks that support its answer, and what these cannot show."""

from collections.abc import Callable
from dataclasses import dataclass

from esper.audit.report import sentences
from esper.audit.report.sentences import LOG_CHECKS, Material


@dataclass(frozen=True)
class Statement:
    """A statement of `sql/`, by its name, and what its rows are."""

    name: str
    caption: str


@dataclass(frozen=True)
class Question:
    """A question: its number, its anchor, and all that its section is made of."""

    number: int
    anchor: str
    title: str
    queries: tuple[Statement, ...]
    answer: Callable[[Material], str]
    checks: tuple[str, ...]
    cannot_show: str


QUESTIONS = (
    Question(
        1,
        "structure",
        "What changed in the structure of this model, when, on what evidence, and under which limits in force then?",
        (
            Statement("growth", "The size of the model"),
            Statement("structure", "Changes of the structure that took effect"),
            Statement("limit_sets", "The limits in force, by their number"),
        ),
        sentences.structure,
        (
            "lifecycle.legal_transition",
            "lifecycle.caused_by_command",
            "command.single_outcome",
            "command.from_decision",
            "decision.thresholds",
            "decision.explained",
            "adaptation.max_per_epoch",
            "adaptation.cooldown",
        ),
        "The log has the reason that the controller gave and the numbers that it rested on. It does not show that a change was good "
        "for any use of the model, and a model that is changed elsewhere after the run leaves no record here.",
    ),
    Question(
        2,
        "refusals",
        "What was refused, and why?",
        (Statement("decided", "What became of the decisions"), Statement("refusals", "What was refused or failed")),
        sentences.what_was_refused,
        ("decision.answered", "decision.explained", "command.single_outcome"),
        "What nobody proposed was never refused. A refusal names the first rule that was broken; others may have been broken too.",
    ),
    Question(
        3,
        "limits",
        "Who set the limits, who changed them, and were author and approver two people?",
        (Statement("people", "Who is named in the log"), Statement("limits", "The limits, and the epochs in which they were in force")),
        sentences.limits,
        ("settings.change_recorded", "decision.thresholds"),
        "Names are as they were given to the program: nothing proves that these people gave them, and two names do not show that two "
        "people looked. Limits that stand in a program of one's own are no settings, and not on record.",
    ),
    Question(
        4,
        "identity",
        "Can this run be identified (code, data, packages, settings, seed, hardware) and repeated?",
        (Statement("manifest", "What a repeat needs"),),
        sentences.identity,
        ("run.manifest_complete",),
        "A data set's digest covers at most 256 samples, evenly spaced: others may differ. Files that no version control "
        "knows are on record where Python had loaded them, to a limit; packages that are not named here are not "
        "covered. That the same settings give the same bits is shown by a repeat alone.",
    ),
    Question(
        5,
        "alerts",
        "Which alerts fired, who was told, when, and what was done?",
        (Statement("alerts", "Alerts that fired"),),
        sentences.alerts,
        ("alert.complete", "alert.handled"),
        "A delivery shows that a receiver took the message, not that a person read it: `esper alerts ack` is how a person says so. What "
        "people did outside of the training is not in the log otherwise. What no rule names raises no alert.",
    ),
    Question(
        6,
        "dark",
        "When was monitoring dark, and what was lost?",
        (Statement("dark", "Times and records that monitoring lacks"), Statement("watching", "What there is")),
        sentences.dark,
        ("health.coverage", "log.sequence", "run.epochs_complete"),
        "Pauses of less than a minute are not listed. What was never measured leaves no gap, and how the machine was while nothing was"
        " recorded is unknown.",
    ),
    Question(
        7,
        "integrity",
        "Is anything missing or altered, and since when could that be shown?",
        (
            Statement("files", "Files of the log, as they were read"),
            Statement("conflicts", "Records that changed after they had been read"),
            Statement("earlier_checks", "Earlier checks of this run"),
        ),
        sentences.integrity,
        (*LOG_CHECKS, "projection.rederivable"),
        "A history whose chains, tails and mark were all made anew before it was first read here looks whole, and records that were "
        "cut off the end of a run that has not ended leave no gap. A copy of the log, or of its last chains, that somebody else keeps "
        "shows both.",
    ),
    Question(
        8,
        "model",
        "Is this model file the one that came out?",
        (Statement("checkpoints", "Checkpoints that are kept"),),
        sentences.model,
        ("checkpoint.attested",),
        "The digest covers the names, types, shapes and bytes of the tensors. It does not cover code beside them, such as grown.py, "
        "nor the network that they are loaded into, nor other copies of the file.",
    ),
    Question(
        9,
        "holds",
        "Which runs and records are under a hold, and when may what be deleted?",
        (
            Statement("holds", "Holds of all runs"),
            Statement("trail", "Parts of the trail that could not be read"),
            Statement("retention", "Records of this run, and their terms on Kafka"),
        ),
        sentences.holds,
        (),
        "A hold is a record, not a lock: whoever may write to the directory can delete it. Copies elsewhere, and the terms that laws "
        "or contracts set, are not known here; a term on Kafka is the one that Esper sets, and a cluster may have been given another.",
    ),
    Question(
        10,
        "corrections",
        "What was corrected (rollback, resume, repair), and why?",
        (Statement("corrections", "Corrections"),),
        sentences.corrections,
        ("lifecycle.legal_transition", "run.epochs_complete", "replay.state"),
        "A correction is a record of its own, and what it corrects stays. Changes of files behind the log's back are no corrections: "
        "question 7 asks for them.",
    ),
    Question(
        11,
        "state",
        "What was the state on the date asked for?",
        (Statement("state", "The run then"), Statement("seeds", "Its seeds then")),
        sentences.state,
        ("replay.state", "projection.rederivable"),
        "The state is that of the last record before the end of that day, by the clock of the machine that wrote it. What had not been"
        " recorded then is unknown.",
    ),
    Question(
        12,
        "tests",
        "Which tests were passed, with figures, by whom and when was the result accepted?",
        (
            Statement("figures", "Figures of the model that came out"),
            Statement("evaluations", "Seeds, with the last figures of each"),
            Statement("sign_offs", "Who accepted the result"),
        ),
        sentences.tests,
        ("run.manifest_complete", "run.epochs_complete"),
        "The log has figures, and no threshold that they had to reach: whether they suffice is for people to judge. It does not show "
        "that the test data are apart from those that were trained on. An acceptance shows that it was recorded under this name.",
    ),
)
