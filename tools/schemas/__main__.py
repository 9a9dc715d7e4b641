"""Writes the generated files, or lists where the committed ones differ. No other module of this package touches files."""

import argparse
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from esper.events.kinds import KINDS
from tools.schemas.asyncapi import document
from tools.schemas.jsonschema import envelope_schema, payload_schema
from tools.schemas.page import with_catalogue
from tools.schemas.tables_page import PAGE, tables_page


def main(arguments: list[str]) -> int:
    """The exit code: 1 where `--check` found a difference, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.schemas", description="Write or check what is generated from the event kinds.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="DIR", help="write every schema into DIR, and remove those of kinds that are gone")
    what.add_argument("--check", type=Path, metavar="DIR", help="exit with 1 and a list when the schemas in DIR are not as generated")
    what.add_argument("--docs", type=Path, metavar="PAGE", nargs="?", const="docs/events.md", help="make the catalogue in PAGE anew")
    what.add_argument("--tables", action="store_true", help="make docs/tables.md anew, the page of the audit's tables")
    chosen = parser.parse_args(arguments)
    if chosen.write:
        write(chosen.write)
    elif chosen.tables:
        PAGE.write_text(tables_page(), encoding="utf-8")
    elif chosen.docs:
        chosen.docs.write_text(with_catalogue(chosen.docs.read_text(encoding="utf-8")), encoding="utf-8")
    elif found := drift(chosen.check):
        sys.stdout.write("".join(f"{line}\n" for line in found))
        return 1
    return 0


@cache
def files() -> Mapping[str, str]:
    """Every generated file's name with its text: `<kind>.json`, `envelope.json` and `asyncapi.yaml` (JSON, which is YAML too)."""
    made = {f"{kind.KIND}.json": payload_schema(kind) for kind in KINDS} | {"envelope.json": envelope_schema(), "asyncapi.yaml": document()}
    return {name: json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n" for name, schema in made.items()}


def write(directory: Path) -> None:
    """Makes `directory` hold the generated files and no other schema."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in _committed(directory) - files().keys():
        (directory / name).unlink()
    for name, text in files().items():
        (directory / name).write_text(text, encoding="utf-8")


def drift(directory: Path) -> list[str]:
    """One line per file of `directory` that is not as generated: missing, different, or of a kind that is gone."""
    made, committed = files(), _committed(directory)
    found = dict.fromkeys(made.keys() - committed, "missing") | dict.fromkeys(committed - made.keys(), "no such kind")
    found |= {name: "differs" for name in made.keys() & committed if (directory / name).read_text(encoding="utf-8") != made[name]}
    return sorted(f"{name}: {fault}" for name, fault in found.items())


def _committed(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("*") if path.suffix in {".json", ".yaml"}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
