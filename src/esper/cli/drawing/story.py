"""What grew in a run, in a few lines: one for all that was done alike after one epoch, and what was refused."""

from collections.abc import Iterator, Mapping, Sequence

from rich.text import Text

from esper.cli.drawing.decisions import adaptations, refusals
from esper.cli.drawing.text import clipped, many
from esper.events.kinds.control import Adaptation
from esper.events.kinds.run import RunRolledBack
from esper.folds.control import DecisionRow
from esper.history.view import Reading

_DONE: Mapping[Adaptation, str] = {
    Adaptation.GERMINATE: "germinated",
    Adaptation.GRAFT: "grafted",
    Adaptation.FOSSILIZE: "fossilized",
    Adaptation.CULL: "culled",
    Adaptation.CANCEL: "cancelled",
}
_MOST = 12


def story(reading: Reading, width: int) -> Iterator[Text]:
    """The last dozen turns of the run that `reading` has read, each in a line of `width` characters, then what the gate refused."""
    alike: dict[tuple[int, Adaptation], list[DecisionRow]] = {}
    for one in adaptations(reading.timeline.decisions):
        if one.fate == "applied":
            alike.setdefault((one.epoch, one.decision.adaptation), []).append(one)
    turns = [(group[0].moment, f"{epoch:>5}  {_told(group)}") for (epoch, _), group in alike.items()]
    turns += [(note.moment, f"{note.epoch:>5}  {note.text}") for note in reading.timeline.notes if note.kind == RunRolledBack.KIND]
    hidden = len(turns) - _MOST
    if hidden > 0:
        yield Text(f"{'':>7}{many(hidden, 'earlier turn')} are not told here", style="dim")
    yield from (Text(clipped(words, width)) for _, words in sorted(turns)[-_MOST:])
    if not turns:
        yield Text(f"{'':>7}nothing grew")
    yield Text(f"{'':>7}refused by the gate: {refusals(reading.state)}")


def _told(group: Sequence[DecisionRow]) -> str:
    first, names, site = group[0].decision, [], None
    for decision in (one.decision for one in group):
        where = "" if decision.site == site else f"{decision.site} "
        names.append(f"{where}s{decision.seed} {decision.blueprint or ''}".rstrip())
        site = decision.site
    return f"{_DONE[first.adaptation]} {', '.join(names)}: {first.reason}"
