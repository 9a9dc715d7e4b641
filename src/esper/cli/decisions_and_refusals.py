"""Decisions as rows of a table: what was wanted, with which confidence and urgency, and what became of it; a refusal with its rule."""

from collections.abc import Iterable

from rich.table import Column, Table
from rich.text import Text

from esper.cli.text import (
    elided,
    hanging,
    one_line,
    reference,
    share,
)
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.folds.control_state import DecisionRow
from esper.folds.run_state import RunState

_DECISION_WORDS = (
    "conf: confidence that the change helps, urg: urgency, both 0 to 1; shadow: validation with the seed tried beside the host; "
    "z: gain over its standard error"
)
_HOUSEKEEPING = frozenset({Adaptation.ADVANCE, Adaptation.NONE})
_LONGEST_NAME = 24
_WITH_REASONS = 90
_STYLES = {
    "applied": "green",
    "refused": "yellow",
    "command refused": "yellow",
    "failed": "red",
    "pending": "cyan",
    "recorded": "dim",
}


def is_adaptation(decided: DecisionRow) -> bool:
    """True for a decision that changes the network; False for housekeeping and for doing nothing."""
    return decided.decision.adaptation not in _HOUSEKEEPING


def adaptation(decision: DecisionMade) -> str:
    """The adaptation and its seed."""
    where = "" if decision.site is None else f" {decision.site}"
    seed = "" if decision.seed is None else f" s{decision.seed}"
    return f"{decision.adaptation.value}{where}{seed}"


def confidence_and_urgency(decision: DecisionMade) -> str:
    """Confidence and urgency."""
    return f"conf {share(decision.confidence)} urg {share(decision.urgency)}"


def evidence(decision: DecisionMade) -> str:
    """The records that a decision follows from."""
    return ", ".join(reference(event) for event in decision.evidence) or "no evidence"


def decision_table(decisions: Iterable[DecisionRow], width: int, *, reasons: bool | None = None) -> Table:
    """A row per decision: with its reason, cut to the room there is (`reasons`; by default in a large `width`), or with its blueprint."""
    reasons = width >= _WITH_REASONS if reasons is None else reasons
    name_width = _LONGEST_NAME if reasons else max(8, width - 49)
    columns = [Column(width=4, justify="right"), Column(no_wrap=True, width=None if reasons else name_width)]
    columns += [Column(no_wrap=True, overflow="ellipsis", ratio=1)] if reasons else []
    columns += [Column(no_wrap=True, style="dim", min_width=20), Column(no_wrap=True, min_width=19)]
    table = Table.grid(*columns, padding=(0, 2, 0, 0), expand=reasons)
    for decided in decisions:
        decision = decided.decision
        blueprint = "" if reasons or decision.blueprint is None else f" {decision.blueprint}"
        name = elided(adaptation(decision) + blueprint, name_width)
        outcome = {"refused": f"refused: {decided.rule}", "pending": "no outcome yet"}.get(decided.fate, decided.fate)
        cells = (name, one_line(*decision.reason.split(" "), between=" ")) if reasons else (name,)
        table.add_row(str(decided.epoch), *cells, confidence_and_urgency(decision), Text(outcome, style=_STYLES[decided.fate]))
    return table


def refusals(state: RunState) -> str:
    """The number of decisions that each of the gate's rules refused."""
    return ", ".join(f"{rule} {refused}" for rule, refused in sorted(state.control.counts.refused.items())) or "none"


def words_of_decisions() -> Table:
    """The meanings of the short words in decisions and their reasons."""
    return hanging(" ", _DECISION_WORDS, style="dim")
