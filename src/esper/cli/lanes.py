"""Lives of seeds as lanes of stages: in words for the panel, along an axis of epochs for `esper show`; and the lattice of slots."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from esper.events.kinds.lifecycle import SeedRow, Stage
from esper.events.kinds.run import Site
from esper.folds.timeline import Life, Span


class _Look(NamedTuple):
    """Style, word and glyph of a stage. A denser glyph is more influence on the host: none up to TRAINING, whole from STABILIZATION on."""

    style: str
    word: str
    glyph: str


LOOKS: Mapping[Stage, _Look] = {
    Stage.DORMANT: _Look("dim", "dormant", " "),
    Stage.GERMINATED: _Look("yellow", "germ", "·"),
    Stage.LOADING: _Look("yellow", "load", ":"),
    Stage.TRAINING: _Look("cyan", "train", "░"),
    Stage.GRAFTING: _Look("magenta", "graft", "▒"),
    Stage.STABILIZATION: _Look("blue", "stab", "▓"),
    Stage.EVALUATING: _Look("blue", "eval", "?"),
    Stage.FINE_TUNING: _Look("green", "fine-tune", "█"),
    Stage.FOSSILIZED: _Look("bold green", "fossil", "━"),
    Stage.CULLED: _Look("red", "culled", "x"),
    Stage.CANCELLED: _Look("dim", "cancelled", "o"),
    Stage.ROLLED_BACK: _Look("bold red", "rolled back", "!"),
}
_OVER = frozenset({Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK})
_LONGEST_BAR = 4


def stages_in_words(life: Life, epoch: int, planned: Mapping[Stage, int], width: int) -> Text:
    """The stages of `life` up to the end of `epoch`, in at most `width` characters: the past with a bar per epoch, the present in capitals.

    `planned` is the length in epochs that the settings give a stage. Stages that took no epoch are left out; where room is short the
    oldest give way to an ellipsis.
    """
    past = [_past(span, epoch) for span in life.spans[:-1] if _length(span, epoch) > 0]
    now = _now(life, epoch, planned)
    # A long reason gives way to the past down to a third of the room, then the past gives way from its front.
    now.truncate(max(width - sum(part.cell_len for part in past), width // 3), overflow="ellipsis")
    while past and sum(part.cell_len for part in past) + now.cell_len > width:
        past = [Text("… ", style="dim"), *past[2:]] if len(past) > 1 else []
    return Text().join((*past, now))


def _past(span: Span, epoch: int) -> Text:
    length = _length(span, epoch)
    bar = "" if span.stage in _OVER else f"{'━' * length if length <= _LONGEST_BAR else f'━{length}━'} "
    return Text(f"{LOOKS[span.stage].word} {bar}", style=LOOKS[span.stage].style)


def _now(life: Life, epoch: int, planned: Mapping[Stage, int]) -> Text:
    last = life.spans[-1]
    style, word, _ = LOOKS[last.stage]
    if life.undone:
        return Text(f"{word}, undone by a rollback", style="red")
    if last.stage in _OVER:
        return Text(f"{word} @{last.from_epoch}: {last.reason}", style=style)
    if last.stage is Stage.FOSSILIZED:
        return Text(f"FOSSIL since @{last.from_epoch}", style=style)
    of = f"/{planned[last.stage]}" if last.stage in planned else ""
    return Text(f"{word.upper()} {_length(last, epoch)}{of}", style=style)


def _length(span: Span, epoch: int) -> int:
    return (span.to_epoch if span.to_epoch is not None else epoch) - span.from_epoch


def lane(life: Life, epoch: int, axis: int, width: int) -> Text:
    """`life` along an axis of `axis` epochs in at most `width` characters; each shows the latest stage within its share of epochs.

    A stage entered at the end of an epoch is shown from the next on, so what is in force after the last epoch stands at `epoch` + 1. An
    ended life shows its end once and nothing after it.
    """
    text = Text()
    scale = scale_of(axis, width)
    for first in range(1, axis + 1, scale):
        span = _during(life, first, first + scale - 1, epoch + 1)
        look = LOOKS[Stage.DORMANT if span is None else span.stage]
        text.append(look.glyph, style=look.style)
    return text


def scale_of(axis: int, width: int) -> int:
    """Epochs per character on an axis of `axis` epochs in `width` characters."""
    return max(1, -(-axis // width))


def _during(life: Life, first: int, last: int, now: int) -> Span | None:
    found = None
    for span in life.spans:
        ends = now if span.to_epoch is None else span.to_epoch
        if span.stage in _OVER:
            ends = span.from_epoch + 1
        if ends > span.from_epoch and span.from_epoch + 1 <= last and ends >= first:
            found = span
    return found


def ruler(axis: int, width: int) -> str:
    """Marks for the axis that `lane` draws on: a number where its epoch stands, at most one per ten characters."""
    scale = scale_of(axis, width)
    line = [" "] * (-(-axis // scale) + 6)
    for column in range(9, -(-axis // scale), 10):
        for offset, character in enumerate(str((column + 1) * scale)):
            line[column + offset] = character
    line[0] = "1"
    return "".join(line).rstrip()


def legend(drawn: str) -> Columns:
    """The glyphs in `drawn` with their stages."""
    looks = [look for look in LOOKS.values() if look.glyph in drawn.replace(" ", "")]
    return Columns([Text(look.glyph, style=look.style).append(f" {look.word}", style="dim") for look in looks])


def lattice(sites: Sequence[Site], rows: Sequence[SeedRow]) -> Table:
    """A row per site, a column per slot: stage and blueprint of its seed; a slot that the log does not know is unknown."""
    known = {(row.site, row.seed): row for row in rows}
    slots = max((site.slots for site in sites), default=0)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(no_wrap=True)
    for slot in range(slots):
        table.add_column(f"s{slot}", no_wrap=True, overflow="ellipsis")
    for site in sites:
        table.add_row(site.name, *(_slot(known.get((site.name, slot))) for slot in range(site.slots)))
    return table


def _slot(row: SeedRow | None) -> Text:
    if row is None:
        return Text("unknown", style="dim")
    if row.stage is Stage.DORMANT:
        return Text("·", style="dim")
    embargo = "" if row.embargo_until is None else f" until {row.embargo_until}"
    return Text(f"{stage_word(row.stage)} {row.blueprint or ''}{embargo}", style=LOOKS[row.stage].style)


def stage_word(stage: Stage) -> str:
    """A stage's name in small letters."""
    return stage.value.lower().replace("_", "-")
