"""Clauses of rules that the report is evidence for. What a clause asks is said in our words; its text is what counts.

Evidence for a clause is never the whole of it: the column of what no log can show says what has to come from elsewhere.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause: what it asks, the checks and questions that are evidence for it, and what no log can show."""

    rule: str
    clause: str
    asks: str
    checks: tuple[str, ...]
    questions: tuple[int, ...]
    cannot_show: str


_AI_ACT, _SOC, _PART_11, _RMF = "EU AI Act, (EU) 2024/1689", "SOC 2, trust services criteria", "21 CFR Part 11", "NIST AI RMF 1.0"
CLAUSES = (
    Clause(
        _AI_ACT,
        "Art. 12(1)",
        "the system records events automatically over its lifetime",
        ("log.sequence", "log.chain", "run.epochs_complete", "health.coverage"),
        (6, 7),
        "events of the system in use: this log is of training",
    ),
    Clause(
        _AI_ACT,
        "Art. 12(2)(a)",
        "the records help to find situations of risk and substantial modifications",
        ("lifecycle.legal_transition", "lifecycle.caused_by_command", "alert.complete"),
        (1, 2, 5),
        "whether a change is a substantial modification in the sense of the Act",
    ),
    Clause(
        _AI_ACT,
        "Art. 12(2)(b), (c)",
        "the records make monitoring after placing on the market, and of operation, possible",
        ("alert.complete", "alert.handled"),
        (5, 6),
        "what happens to the model once it is deployed",
    ),
    Clause(
        _AI_ACT,
        "Art. 19",
        "providers keep the logs under their control for a time that fits their purpose, six months at least",
        ("log.sequence", "log.tail"),
        (7, 9),
        "that the logs will be kept from now on, and that the provider keeps all of them",
    ),
    Clause(
        _AI_ACT,
        "Art. 26(6)",
        "deployers keep the logs under their control for a time that fits their purpose, six months at least",
        ("log.sequence", "log.tail"),
        (7, 9),
        "the deployer's own logs of the system in use",
    ),
    Clause(
        _AI_ACT,
        "Annex IV 2(a), (b), (c)",
        "technical documentation: how the system was developed, its design choices, its structure, the computing used",
        ("run.manifest_complete", "decision.explained", "lifecycle.legal_transition"),
        (1, 3, 4),
        "why the model was made, for which use, and what people considered before the run",
    ),
    Clause(
        _AI_ACT,
        "Annex IV 2(d)",
        "technical documentation: the data that was trained on, where it came from, how it was chosen",
        ("run.manifest_complete",),
        (4,),
        "where data came from, how they were labelled and cleaned, and whether they are representative",
    ),
    Clause(
        _AI_ACT,
        "Annex IV 2(g)",
        "technical documentation: validation and tests, their metrics, and reports that responsible people dated and signed",
        ("run.epochs_complete",),
        (12,),
        "whether the tests were the right ones, and a signature in the sense of law",
    ),
    Clause(
        _AI_ACT,
        "Annex IV 6",
        "technical documentation: relevant changes through the lifecycle",
        ("settings.change_recorded", "lifecycle.caused_by_command"),
        (1, 3, 10),
        "changes outside of Esper",
    ),
    Clause(
        "ISO/IEC 42001:2023",
        "A.6.2.8",
        "it is decided in which phases of the lifecycle event logs are recorded, in use at least, and they are",
        ("log.sequence", "log.schema_known", "health.coverage"),
        (6, 7),
        "the decision itself, and logs of the system in use",
    ),
    Clause(
        _RMF,
        "MAP 4.2",
        "internal controls of risks are identified and documented, for each component",
        ("decision.thresholds", "decision.answered", "command.from_decision", "adaptation.max_per_epoch", "adaptation.cooldown"),
        (1, 2, 3),
        "whether these limits are the right controls for the risks at hand",
    ),
    Clause(
        _RMF,
        "MEASURE 2.4, 2.8, 2.13",
        "behaviour is monitored, transparency and accountability are examined, and measuring is itself evaluated",
        ("health.coverage", "decision.explained", "replay.state"),
        (1, 5, 6, 11),
        "behaviour in production, and effects on people",
    ),
    Clause(
        _RMF,
        "MANAGE 4.1, 4.3; GOVERN 6.1",
        "incidents are communicated and tracked, changes managed, parts from others controlled",
        ("alert.handled", "decision.thresholds", "checkpoint.attested"),
        (5, 8, 10),
        "that people answered an incident well, and contracts with third parties",
    ),
    Clause(
        _SOC,
        "CC7.2, CC7.3",
        "components are watched for anomalies, and what is found is evaluated",
        ("alert.complete", "alert.handled"),
        (5, 6),
        "anomalies of other systems, and the evaluation by people",
    ),
    Clause(
        _SOC,
        "CC8.1",
        "changes are authorized, documented, tested, approved and then made",
        ("settings.change_recorded", "lifecycle.caused_by_command", "command.from_decision"),
        (1, 3, 12),
        "authorization by people before the limits were set",
    ),
    Clause(
        _PART_11,
        "11.10(a)",
        "systems are validated: accurate, reliable, and able to discern invalid or altered records",
        ("log.chain", "log.conflict", "log.schema_known", "projection.rederivable", "replay.state"),
        (7, 11),
        "the validation of this installation, its machine and its procedures",
    ),
    Clause(
        _PART_11,
        "11.10(b), (c)",
        "complete copies can be made, for people and for machines, and records are protected for as long as they are kept",
        ("log.tail", "log.chain", "projection.rederivable"),
        (7, 9),
        "protection of the disk, its backups, and who may reach them",
    ),
    Clause(
        _PART_11,
        "11.10(e)",
        "an audit trail that the computer makes, with times, which hides no earlier entry",
        ("log.sequence", "log.clock_sane", "command.single_outcome"),
        (1, 3, 7, 10),
        "that the machine's clock was right, and who sat at it",
    ),
    Clause(
        _PART_11,
        "11.10(f)",
        "the system itself enforces the permitted order of steps",
        ("lifecycle.legal_transition", "lifecycle.caused_by_command"),
        (1, 10),
        "the order of steps that people take",
    ),
)
