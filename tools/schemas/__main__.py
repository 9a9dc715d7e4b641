"""Writes what is generated from the event kinds, or says where it differs from what is there. No other module here touches files."""

import argparse
import sys
from pathlib import Path

from tools.schemas import files
from tools.schemas.page import with_catalogue


def main(arguments: list[str]) -> int:
    """The exit code: 1 where `--check` found a difference, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.schemas", description="Write or check what is generated from the event kinds.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="DIR", help="write every schema into DIR, and remove those of kinds that are gone")
    what.add_argument("--check", type=Path, metavar="DIR", help="exit with 1 and a list when the schemas in DIR are not as generated")
    what.add_argument("--docs", type=Path, metavar="PAGE", nargs="?", const="docs/events.md", help="make the catalogue in PAGE anew")
    chosen = parser.parse_args(arguments)
    if chosen.write:
        write(chosen.write)
    elif chosen.docs:
        chosen.docs.write_text(with_catalogue(chosen.docs.read_text(encoding="utf-8")), encoding="utf-8")
    elif found := drift(chosen.check):
        sys.stdout.write("".join(f"{line}\n" for line in found))
        return 1
    return 0


def write(directory: Path) -> None:
    """Makes `directory` hold the generated files and no other schema."""
    directory.mkdir(parents=True, exist_ok=True)
    made = files()
    for name, text in made.items():
        (directory / name).write_text(text, encoding="utf-8")
    for name in _committed(directory) - made.keys():
        (directory / name).unlink()


def drift(directory: Path) -> list[str]:
    """One line per file of `directory` that is not as generated: missing, different, or of a kind that is gone."""
    made, committed = files(), _committed(directory)
    missing = [f"{name}: missing" for name in made.keys() - committed]
    gone = [f"{name}: no such kind" for name in committed - made.keys()]
    texts = {name: (directory / name).read_text(encoding="utf-8") for name in committed & made.keys()}
    return sorted(missing + gone + [f"{name}: differs" for name, text in texts.items() if text != made[name]])


def _committed(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.suffix in {".json", ".yaml"}} if directory.is_dir() else set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
