"""How many of the attacks on the SQL door get through: the door, DuckDB's own read-only connection, and Datasette.

The attacks stand in tests/audit/door/attacks.py. One got through when it read a secret outside the file (`reads`), learned where the file
stands (`place`), changed a byte of what was there (`writes`), talked to a server (`network`), lived longer than its limit and a second
(`time`), or took more memory than its limit (`memory`). DuckDB is asked twice: read-only, and with everything shut that its settings can
shut. Datasette takes part where its program is found, or is named with --datasette. Exit code 1 where an attack got through the door.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from door_peers import PLAIN, SHUT, Escape, datasette, duckdb_alone, escapes
from rich.console import Console
from rich.table import Table

from tests.audit.door.arena import FOLDER, VARIABLE, VARIABLE_NAME, Arena, arena
from tests.audit.door.attacks import ATTACKS
from tests.audit.door.fight import LATE_S, LIMITS, Fought, fight

Figures = dict[str, dict[str, object]]


def main() -> int:
    """Makes every attack on each of them, and prints a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--datasette", type=Path, metavar="PROGRAM", default=Path(sys.executable).with_name("datasette"))
    parser.add_argument("--door-only", action="store_true", help="leave the others out")
    arguments = parser.parse_args()
    os.environ[VARIABLE_NAME] = VARIABLE
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="esper-door-") as folder:
        for number, name in enumerate(("door",) if arguments.door_only else ("door", "duckdb", "duckdb_shut", "datasette")):
            root = Path(folder) / str(number)
            root.mkdir()
            with arena(root) as place:
                began = time.monotonic()
                found = contest(name, place, arguments.datasette)
                if found is not None:
                    figures[name] = {"took_s": round(time.monotonic() - began, 1), **counted(found)}
    if arguments.json:
        json.dump({"attacks": len(ATTACKS), "limits": LIMITS.model_dump(), "contenders": figures}, sys.stdout)
        print()
    else:
        show(figures)
    return 1 if figures["door"]["escapes"] else 0


def contest(name: str, place: Arena, program: Path) -> list[Escape] | None:
    """What got through the contender `name`; None where it is not installed."""
    with ExitStack() as stack:
        if name == "door":
            return through_the_door(place)
        if name == "datasette":
            if not program.exists():
                print(f"door.py: SKIPPED datasette: no program at {program}; name one with --datasette", file=sys.stderr)
                return None
            return escapes(place, ATTACKS, stack.enter_context(datasette(place, program)))
        return escapes(place, ATTACKS, duckdb_alone(place, PLAIN if name == "duckdb" else SHUT))


def through_the_door(place: Arena) -> list[Escape]:
    """What got through the door. A change, a visit or too much memory is a whole family's, as its attacks are made at once."""
    found = []
    for family in dict.fromkeys(attack.family for attack in ATTACKS):
        result = fight(place, [attack for attack in ATTACKS if attack.family == family])
        together = {
            "writes": result.changed,
            "network": result.visits > 0,
            "memory": result.peak_mb > result.idle_mb + LIMITS.memory_mb,
        }
        for one in result.attacks:
            ways = (*_ways(one), *(way for way, true in together.items() if true))
            if ways:
                found.append(Escape(family, one.name, ways))
    return found


def _ways(one: Fought) -> tuple[str, ...]:
    reads, place = set(one.leaked) - {FOLDER}, FOLDER in one.leaked
    return tuple(way for way, true in {"reads": reads, "place": place, "time": one.over_s > LATE_S}.items() if true)


def counted(found: list[Escape]) -> dict[str, object]:
    """The number of attacks that got through, by family and by way, and each of them."""
    return {
        "escapes": len(found),
        "families": dict(Counter(escape.family for escape in found)),
        "ways": dict(Counter(way for escape in found for way in escape.ways)),
        "each": [escape._asdict() for escape in found],
    }


def show(figures: Figures) -> None:
    """The table: a row a family, a column a contender."""
    table = Table(title=f"{len(ATTACKS)} attacks: how many got through")
    table.add_column("family")
    table.add_column("attacks", justify="right")
    for name in figures:
        table.add_column({"duckdb": "DuckDB read-only", "duckdb_shut": "and shut"}.get(name, name), justify="right")
    for family, attacks in Counter(attack.family for attack in ATTACKS).items():
        table.add_row(family, str(attacks), *(str(_families(one).get(family, 0)) for one in figures.values()))
    table.add_section()
    table.add_row("all", str(len(ATTACKS)), *(str(one["escapes"]) for one in figures.values()))
    Console().print(table)
    for name, one in figures.items():
        Console().print(f"{name}: {one['took_s']} s, {one['ways'] or 'nothing got through'}", highlight=False)


def _families(figures: dict[str, object]) -> dict[str, int]:
    families = figures["families"]
    assert isinstance(families, dict)
    return families


if __name__ == "__main__":
    sys.exit(main())
