"""Decisions as lines: what was wanted, on which evidence, how sure and how urgent, and what became of it."""

from collections.abc import Iterable

from rich.text import Text

from esper.cli.drawing.text import clipped, place, share, within, wrapped
from esper.events.kinds.control import Adaptation, DecisionMade
from esper.events.kinds.run import Site
from esper.folds.control import DecisionRow
from esper.folds.run import RunState

HOUSEKEEPING = frozenset({Adaptation.ADVANCE, Adaptation.NONE})
_SHORTEST_REASON = 12
_STYLES = {
    "applied": "green",
    "refused": "yellow",
    "command refused": "yellow",
    "failed": "red",
    "pending": "cyan",
    "recorded": "dim",
}


def wanted(decision: DecisionMade) -> str:
    """What a decision is about: the adaptation and its seed."""
    where = "" if decision.site is None else f" {decision.site}"
    seed = "" if decision.seed is None else f" s{decision.seed}"
    return f"{decision.adaptation.value}{where}{seed}"


def sureness(decision: DecisionMade) -> str:
    """Confidence and urgency."""
    return f"conf {share(decision.confidence)} urg {share(decision.urgency)}"


def evidence(decision: DecisionMade) -> str:
    """Where the records stand that a decision follows from."""
    return ", ".join(place(event) for event in decision.evidence) or "no evidence"


def room_for(sites: Iterable[Site]) -> int:
    """How many characters `wanted` takes at most in a run with these sites, up to 24."""
    longest = max((len(site.name) for site in sites), default=0)
    return min(24, len("germinate ") + longest + len(" s0"))


def line(decided: DecisionRow, width: int, room: int) -> Text:
    """A decision in one line of `width` characters: epoch, what (in `room`), why (it gives way, at last wholly), numbers, outcome."""
    decision, left = decided.decision, _room(decided, width)
    if left < room + _SHORTEST_REASON:
        return _row(decided, wanted(decision), width)
    return _row(decided, f"{within(wanted(decision), room):<{room}}  {clipped(decision.reason, left - room - 2)}", width)


def block(decided: DecisionRow, width: int) -> list[Text]:
    """A decision in full: what, numbers and outcome; then the whole reason, why it was refused or failed, and its evidence."""
    decision = decided.decision
    words = [f"{place(decided.id)} from {evidence(decision)}: {decision.reason}", decided.detail or ""]
    more = [Text(line, style="dim") for sentence in words for line in wrapped(sentence, width, 6)]
    return [_row(decided, f"{wanted(decision)} {decision.blueprint or ''}".rstrip(), width), *more]


def _row(decided: DecisionRow, what: str, width: int) -> Text:
    room = _room(decided, width)
    text = Text(f"{decided.epoch:>4}  {within(what, room):<{room}}  ").append(f"{sureness(decided.decision):<20}  ", style="dim")
    return text.append(_outcome(decided), style=_STYLES[decided.fate])


def _room(decided: DecisionRow, width: int) -> int:
    """How many characters are left for what was decided and why."""
    return max(0, width - 10 - max(20, len(sureness(decided.decision))) - max(len(_outcome(decided)), len("refused: confidence")))


def _outcome(decided: DecisionRow) -> str:
    return {"refused": f"refused: {decided.rule}", "pending": "no outcome yet"}.get(decided.fate, decided.fate)


def refusals(state: RunState) -> str:
    """How many decisions each of the gate's rules refused."""
    return ", ".join(f"{rule} {refused}" for rule, refused in sorted(state.control.counts.refused.items())) or "none"


def adaptations(decisions: Iterable[DecisionRow]) -> list[DecisionRow]:
    """The decisions that would change what the host is; housekeeping and `none` left out."""
    return [decided for decided in decisions if decided.decision.adaptation not in HOUSEKEEPING]
