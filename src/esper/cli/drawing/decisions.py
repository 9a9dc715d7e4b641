"""Decisions as lines: what was wanted, on which evidence, how sure and how urgent, and what became of it."""

from collections.abc import Iterable

from rich.text import Text

from esper.cli.drawing.text import clipped, place, share, wrapped
from esper.events.kinds.control import Adaptation
from esper.events.kinds.run import Site
from esper.processes.timeline import Decided

HOUSEKEEPING = frozenset({Adaptation.ADVANCE, Adaptation.NONE})
_OUTCOME = len("refused: confidence")
_STYLES = {
    "applied": "green",
    "refused": "yellow",
    "command refused": "yellow",
    "failed": "red",
    "pending": "cyan",
    "recorded": "dim",
}


def wanted(decided: Decided) -> str:
    """What a decision is about: the adaptation and its seed."""
    decision = decided.decision
    where = "" if decision.site is None else f" {decision.site}"
    seed = "" if decision.seed is None else f" s{decision.seed}"
    return f"{decision.adaptation.value}{where}{seed}"


def outcome(decided: Decided) -> str:
    """What became of a decision, with the gate's rule where it refused."""
    match decided.fate:
        case "refused":
            return f"refused: {decided.rule}"
        case "pending":
            return "no outcome yet"
        case fate:
            return fate


def room_for(sites: Iterable[Site]) -> int:
    """How many characters `wanted` takes at most in a run with these sites, up to 24."""
    longest = max((len(site.name) for site in sites), default=0)
    return min(24, len("germinate ") + longest + len(" s0"))


def line(decided: Decided, width: int, room: int) -> Text:
    """A decision in one line of `width` characters: epoch, what (in `room`), why, numbers, outcome; the reason gives way."""
    head = f"{decided.epoch:>4}  {clipped(wanted(decided), room):<{room}}  "
    end = outcome(decided)
    left = max(0, width - len(head) - len(_numbers(decided)) - 4 - max(len(end), _OUTCOME))
    text = Text(head).append(clipped(decided.decision.reason, left).ljust(left) + "  ")
    return text.append(_numbers(decided) + "  ", style="dim").append(end, style=_STYLES[decided.fate])


def _numbers(decided: Decided) -> str:
    return f"conf {share(decided.decision.confidence):<5} urg {share(decided.decision.urgency):<5}"


def block(decided: Decided, width: int) -> list[Text]:
    """A decision in full: what, numbers and outcome; then the whole reason, why it was refused or failed, and its evidence."""
    decision = decided.decision
    blueprint = decision.blueprint or ""
    first = Text(f"{decided.epoch:>4}  {wanted(decided):<24} {blueprint:<12} ").append(f"{_numbers(decided)}  ", style="dim")
    first.append(outcome(decided), style=_STYLES[decided.fate])
    evidence = ", ".join(place(event) for event in decision.evidence) or "no evidence"
    lines = [first, *_indented(f"{place(decided.id)} from {evidence}: {decision.reason}", width)]
    return lines if decided.detail is None else lines + _indented(decided.detail, width)


def _indented(words: str, width: int) -> list[Text]:
    return [Text(line, style="dim") for line in wrapped(words, width, 6)]


def adaptations(decisions: Iterable[Decided]) -> list[Decided]:
    """The decisions that would change what the host is; housekeeping and `none` left out."""
    return [decided for decided in decisions if decided.decision.adaptation not in HOUSEKEEPING]
