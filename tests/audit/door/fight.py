"""Every attack against the door, from several threads at once, in a process of its own, so that the memory of its children can be told.

    python -m tests.audit.door.fight [FAMILY ...]

prints what came of it as one JSON object: `attacks` has a list per attack: family, name, outcome, its words, seconds, secrets that leaked.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from esper.audit.door.query import QueryLimits, query
from esper.errors import LimitError, RuleError
from tests.audit.door.arena import VARIABLE, VARIABLE_NAME, Arena, arena, leaks
from tests.audit.door.attacks import ATTACKS, Attack

LIMITS = QueryLimits(time_s=3.0, memory_mb=256, threads=2, rows=10_000, result_mb=16)
_ENDLESS = QueryLimits(time_s=1.0, memory_mb=256, threads=1, rows=10_000, result_mb=16)
"""For the attacks of families that end at no other limit than that of time, so that they take no more of it than they must."""

LATE_S = 1.0
_AT_ONCE = 3


class Fought(NamedTuple):
    """What came of one attack: `words` are those of its error, `over_s` is how long it took beyond its limit."""

    family: str
    name: str
    outcome: str
    words: str
    took_s: float
    over_s: float
    leaked: list[str]


class Result(NamedTuple):
    """What came of all; `peak_mb` is the most that any process behind the door had, and `idle_mb` what one has that does nothing."""

    attacks: list[Fought]
    changed: bool
    visits: int
    idle_mb: float
    peak_mb: float


def fight(place: Arena, attacks: Collection[Attack]) -> Result:
    """Runs `attacks` in `place`, one more before them that does nothing."""
    before = place.content()
    query(place.file, "SELECT 1", limits=LIMITS)
    idle_mb = _peak_mb()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        fought = list(threads.map(lambda attack: _one(place, attack), attacks))
    # A machine that has more to do than it can is late itself: what was late is asked again, alone.
    fought = [_one(place, attack) if one.over_s > LATE_S else one for one, attack in zip(fought, attacks, strict=True)]
    return Result(fought, place.content() != before, len(place.visits), idle_mb, _peak_mb())


def _one(place: Arena, attack: Attack) -> Fought:
    limits = _ENDLESS if attack.family in ("time", "length") else LIMITS
    began = time.monotonic()
    texts: list[str] = []
    words = ""
    try:
        answer = query(place.file, place.sql(attack), limits=limits, parameters=place.parameters(attack))
        outcome = "answered"
        texts = [str(answer.rows()), str(answer.arrow.schema)]
    except LimitError as error:
        outcome, words = "limit", str(error)
    except RuleError as error:
        outcome, words = "refused", str(error)
    took_s = time.monotonic() - began
    return Fought(attack.family, attack.name, outcome, words, took_s, max(0.0, took_s - limits.time_s), leaks(*texts, words))


def _peak_mb() -> float:
    """The most memory that any child of this process had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    """Fights against the families of the command line, else against all."""
    os.environ[VARIABLE_NAME] = VARIABLE
    attacks = [attack for attack in ATTACKS if not sys.argv[1:] or attack.family in sys.argv[1:]]
    with tempfile.TemporaryDirectory(prefix="esper-door-") as folder, arena(Path(folder)) as place:
        result = fight(place, attacks)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
