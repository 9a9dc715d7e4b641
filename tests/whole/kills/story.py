"""A run that is killed again and again until it finishes, with an account of every death."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from esper.events.envelope import Record
from esper.oona.directory import Directory
from tests.whole.kills.accounts import Faults, at_the_end, gaps, held_against, lost, records_of
from tests.whole.kills.lives import Life, Lives
from tests.whole.kills.points import Kill
from tests.whole.kills.scenario import RUN

NOTHING = Faults()
RANDOM = "at a random time"


@dataclass(frozen=True)
class After:
    """SIGKILL from outside, so long after the life's first step."""

    delay_s: float


@dataclass(frozen=True)
class Death:
    """One kill: where, what was wrong with the log then or once the run went on, and how long the next life took to catch up."""

    point: str
    faults: Faults = NOTHING
    caught_up_s: float | None = None


def play(lives: Lives, path: Path, whole: tuple[Record, ...], kills: Iterable[Kill | After]) -> tuple[Death, ...]:
    """The deaths of one run in log `path`, the last life of which finished. A random kill that came too late is left out.

    After every life the log is held against `whole`, and everything ever acknowledged must be in it. What the log lost, a death is to
    blame for; what the log has too much or differently, the resume after the death before.
    """
    deaths: list[Death] = []
    acknowledged: dict[str, str | None] = {}
    for kill in (*kills, None):
        if _sealed(path):
            break
        life = _live(lives, path, kill)
        acknowledged |= life.acknowledged
        records = records_of(path)
        _blame(deaths, held_against(records, whole) + gaps(records) + lost(records, acknowledged) + _failure(life), life.caught_up_s)
        if life.end == "killed":
            assert kill is not None
            deaths.append(Death(kill.point if isinstance(kill, Kill) else RANDOM))
            _blame(deaths, lost(records, acknowledged), None)
        elif isinstance(kill, Kill) and life.end == "finished":
            raise RuntimeError(f"the run finished without passing {kill}: expected a scenario that does")
        if life.end == "failed":
            break
    _blame(deaths, at_the_end(records_of(path), whole), None)
    return tuple(deaths)


def _live(lives: Lives, path: Path, kill: Kill | After | None) -> Life:
    begun = Directory(path, create=True).entry(RUN) is not None
    mode = "resume" if begun else "train"
    if isinstance(kill, After):
        return lives.live(path, mode, signal_after_s=kill.delay_s)
    return lives.live(path, mode, kill=kill)


def _blame(deaths: list[Death], faults: Faults, caught_up_s: float | None) -> None:
    """Adds to the last death what came to light after it; before the first there is nobody to blame, so faults are an error."""
    if not deaths:
        if faults:
            raise RuntimeError(f"faults in a run that was not resumed yet: {faults}")
        return
    last = deaths[-1]
    deaths[-1] = replace(last, faults=last.faults + faults, caught_up_s=last.caught_up_s if caught_up_s is None else caught_up_s)


def _failure(life: Life) -> Faults:
    return Faults(diverged=1, words=(life.error,)) if life.end == "failed" else Faults()


def _sealed(path: Path) -> bool:
    entry = Directory(path, create=True).entry(RUN)
    return entry is not None and entry.sealed
