"""The twelve questions: each with the statements that give its rows, the checks that support its answer, and what these cannot show."""

from dataclasses import dataclass

from esper.audit.report import answers
from esper.audit.report.answers import LOG_CHECKS, Answer


@dataclass(frozen=True)
class Query:
    """A statement of `sql/`, by its name, and what its rows are."""

    name: str
    caption: str


@dataclass(frozen=True)
class Question:
    """A question: its number, its anchor, and all that its section is made of."""

    number: int
    anchor: str
    title: str
    queries: tuple[Query, ...]
    answer: Answer
    checks: tuple[str, ...]
    cannot_show: str


QUESTIONS = (
    Question(
        1,
        "structure",
        "What changed in the structure of this model, when, on what evidence, and under which limits in force then?",
        (
            Query("growth", "The size of the model"),
            Query("structure", "Changes of the structure that took effect"),
            Query("limit_sets", "The limits in force, by their number"),
        ),
        answers.structure,
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
        (Query("decided", "What became of the decisions"), Query("refusals", "What was refused or failed")),
        answers.refusals,
        ("decision.answered", "decision.explained", "command.single_outcome"),
        "What nobody proposed was never refused. A refusal names the first rule that was broken; others may have been broken too.",
    ),
    Question(
        3,
        "limits",
        "Who set the limits, who changed them, and were author and approver two people?",
        (Query("people", "Who is named in the log"), Query("limits", "The limits, and the epochs in which they were in force")),
        answers.limits,
        ("settings.change_recorded", "decision.thresholds"),
        "Names are as they were given to the program: nothing proves that these people gave them, and two names do not show that two "
        "people looked. Limits that stand in a program of one's own are no settings, and not on record.",
    ),
    Question(
        4,
        "identity",
        "Can this run be identified (code, data, packages, settings, seed, hardware) and repeated?",
        (Query("manifest", "What a repeat needs"),),
        answers.identity,
        ("run.manifest_complete",),
        "A data set's digest covers at most 256 samples, evenly spaced: others may differ. Files that version control does not know, "
        "and packages that are not named here, are not covered. That the same settings give the same bits is shown by a repeat alone.",
    ),
    Question(
        5,
        "alerts",
        "Which alerts fired, who was told, when, and what was done?",
        (Query("alerts", "Alerts that fired"),),
        answers.alerts,
        ("alert.complete", "alert.handled"),
        "A delivery shows that a receiver took the message, not that a person read it. What people did outside of the training is not "
        "in the log. What no rule names raises no alert.",
    ),
    Question(
        6,
        "dark",
        "When was monitoring dark, and what was lost?",
        (Query("dark", "Times and records that monitoring lacks"), Query("watching", "What there is")),
        answers.dark,
        ("health.coverage", "log.sequence", "run.epochs_complete"),
        "Pauses of less than a minute are not listed. What was never measured leaves no gap, and how the machine was while nothing was"
        " recorded is unknown.",
    ),
    Question(
        7,
        "integrity",
        "Is anything missing or altered, and since when could that be shown?",
        (
            Query("files", "Files of the log, as they were read"),
            Query("conflicts", "Records that changed after they had been read"),
            Query("earlier_checks", "Earlier checks of this run"),
        ),
        answers.integrity,
        (*LOG_CHECKS, "projection.rederivable"),
        "A history whose chains, tails and mark were all made anew before it was first read here looks whole, and records that were "
        "cut off the end of a run that has not ended leave no gap. A copy of the log, or of its last chains, that somebody else keeps "
        "shows both.",
    ),
    Question(
        8,
        "model",
        "Is this model file the one that came out?",
        (Query("checkpoints", "Checkpoints that are kept"),),
        answers.model,
        ("checkpoint.attested",),
        "The digest covers the names, types, shapes and bytes of the tensors. It does not cover code beside them, such as grown.py, "
        "nor the network that they are loaded into, nor other copies of the file.",
    ),
    Question(
        9,
        "holds",
        "Which runs and records are under a hold, and when may what be deleted?",
        (
            Query("holds", "Holds of all runs"),
            Query("trail", "Parts of the trail that could not be read"),
            Query("retention", "Records of this run, and their terms on Kafka"),
        ),
        answers.holds,
        (),
        "A hold is a record, not a lock: whoever may write to the directory can delete it. Copies elsewhere, and the terms that laws "
        "or contracts set, are not known here; a term on Kafka is the one that Esper sets, and a cluster may have been given another.",
    ),
    Question(
        10,
        "corrections",
        "What was corrected (rollback, resume, repair), and why?",
        (Query("corrections", "Corrections"),),
        answers.corrections,
        ("lifecycle.legal_transition", "run.epochs_complete", "replay.state"),
        "A correction is a record of its own, and what it corrects stays. Changes of files behind the log's back are no corrections: "
        "question 7 asks for them.",
    ),
    Question(
        11,
        "state",
        "What was the state on the date asked for?",
        (Query("state", "The run then"), Query("seeds", "Its seeds then")),
        answers.state,
        ("replay.state", "projection.rederivable"),
        "The state is that of the last record before the end of that day, by the clock of the machine that wrote it. What had not been"
        " recorded then is unknown.",
    ),
    Question(
        12,
        "tests",
        "Which tests were passed, with figures, by whom and when was the result accepted?",
        (
            Query("figures", "Figures of the model that came out"),
            Query("evaluations", "Seeds, with the last figures of each"),
            Query("sign_offs", "Who accepted the result"),
        ),
        answers.tests,
        ("run.manifest_complete", "run.epochs_complete"),
        "The log has figures, and no threshold that they had to reach: whether they suffice is for people to judge. It does not show "
        "that the test data are apart from those that were trained on. An acceptance shows that it was recorded under this name.",
    ),
)
