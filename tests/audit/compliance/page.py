"""The generated parts of docs/compliance.md: `python -m tests.audit.compliance.page` makes them anew, and a test compares them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.running import run_checks
from esper.audit.conflicts import compare_with_log
from esper.audit.projection import Projection
from esper.events.envelope import RunId
from esper.oona.directory import Directory
from tests.audit.compliance.finished import memory, write_finished
from tests.audit.compliance.tampering import KINDS

PAGE = Path(__file__).parents[3] / "docs" / "compliance.md"


def with_parts(page: str, parts: Mapping[str, str]) -> str:
    """`page` with each of `parts` between its two markers."""
    for name, text in parts.items():
        before, begin, rest = page.partition(f"<!-- {name}: generated -->\n")
        _, end, after = rest.partition(f"<!-- {name}: end -->")
        assert begin, f"no marker of {name}"
        assert end, f"no end of {name}"
        page = f"{before}{begin}{text}{end}{after}"
    return page


def checks_table() -> str:
    """Every check with its rule, what a PASS does not show, and its clauses."""
    headers = [check.header for check in every_check()]
    rows = [f"| `{one.name}` | {one.title} | {one.cannot_show} | {'; '.join(one.clauses)} |" for one in headers]
    return "\n".join(("| check | rule | a PASS does not show | evidence for |", "|---|---|---|---|", *rows)) + "\n"


def tampering_table() -> str:
    """What finds each way to tamper: in the log alone, and where it had been read before."""
    lines = [f"| {name} | {_named(fresh) or 'nothing'} | {_named(late - fresh) or 'nothing more'} |" for name, fresh, late in _found()]
    return "\n".join(("| done to a finished run | found in it by | and, had it been read before, by |", "|---|---|---|", *lines)) + "\n"


def _named(checks: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(checks))


def _found() -> Iterator[tuple[str, set[str], set[str]]]:
    """The checks that fail after each way to tamper, over a projection made after it, and over one that was made before."""
    with memory() as folder:
        directory = Directory(folder)
        runs = write_finished(directory, len(KINDS))
        with Projection(directory, folder / "before.duckdb") as before, Projection(directory, folder / "after.duckdb") as after:
            before.refresh()
            for run, kind in zip(runs, KINDS, strict=True):
                kind.act(directory.path / run)
            late, fresh = _failures(before, runs), _failures(after, runs)
        yield from ((kind.name, fresh[run], late[run]) for run, kind in zip(runs, KINDS, strict=True))


def _failures(projection: Projection, runs: Sequence[RunId]) -> Mapping[RunId, set[str]]:
    projection.refresh()
    compare_with_log(projection, runs)
    failed: dict[RunId, set[str]] = {run: set() for run in runs}
    for result in run_checks(projection.connection, every_check(), runs):
        if result.violations:
            failed[result.run].add(result.check.name)
    return failed


def part_of(page: str, name: str) -> str:
    """What stands between the markers of `name`."""
    found = re.search(rf"<!-- {name}: generated -->\n(.*?)<!-- {name}: end -->", page, re.DOTALL)
    assert found, f"no part {name}"
    return found[1]


if __name__ == "__main__":
    PAGE.write_text(with_parts(PAGE.read_text(), {"checks": checks_table(), "tampering": tampering_table()}))
