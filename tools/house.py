"""Measures the source of Esper: its lines, modules, names, functions and docstrings, in one checkout or in two side by side.

    python tools/house.py [--json | --lists] [--before REVISION] [--without ROOM,ROOM] [CHECKOUT [CHECKOUT]]

Without an argument it measures the checkout that it stands in. Of two checkouts the first is "before", the second "after"; `--before` takes
a revision of the checkout's own repository as "before". `--without` leaves packages and modules out everywhere, so that the others can be
compared: `--before f99a4cf --without kafka,audit,tolaria/wiring`. `--lists` adds the lists behind the figures of "after".

Rules of counting:
- A line of code holds a token that is neither a comment nor a bare string, so neither docstrings nor strings under fields are code. Lines
  of data are those of every file that is not Python.
- A package is a directory; its modules are its own Python files without `__init__`. The largest package has the most modules.
- A public name is defined at a module's top level (under `if`, `try` and `with` too) by `def`, `class` or an assignment, and does not begin
  with `_`. Imports define nothing; neither does a type variable, whose letter means something only where it is used. Names inside classes
  are not looked at.
- A double name is a public name that several modules define. A function of the same name and the same signature in several modules of one
  package is one shape that they share (a command's `run`), so those definitions count as one; the same in two packages counts as two.
- A double module is a file name that stands in several packages. A double package is a package whose last name another package or module
  bears too. `main` and `__main__`, which every program's entry is called, and `__init__` double nothing.
- A function, method or function inside a function is as long as from the line of its `def` to its last line, docstring included.
- A loose docstring begins with What, How or One; those of modules, classes and functions count, strings under fields do not.
"""

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tarfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

SOURCE = "src/esper"
ENTRIES = frozenset({"__init__", "__main__", "main"})
TYPE_VARIABLES = frozenset({"TypeVar", "ParamSpec", "TypeVarTuple"})
AIM, STOP = 30, 60  # A function of thirty lines fits a screen; past sixty it should be two.
LOOSE = re.compile(r"(What|How|One)\b(?!-)")
NOT_CODE = frozenset({tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER})

Files = Mapping[PurePosixPath, str]
Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class House:
    """The figures of one source tree. A list's figure is its length; each field is a row of the table."""

    lines: int
    code_lines: int
    data_lines: int
    modules: int
    packages: dict[str, int]
    largest_package: int
    classes: int
    public_names: int
    double_names: dict[str, list[str]]
    double_modules: dict[str, list[str]]
    double_packages: dict[str, list[str]]
    functions: int
    functions_over_30: dict[str, int]
    functions_over_60: dict[str, int]
    share_at_most_30: float
    loose_docstrings: list[str]

    def figures(self) -> dict[str, float]:
        """Every field as a number."""
        return {name: value if isinstance(value, int | float) else len(value) for name, value in vars(self).items()}

    def lists(self) -> dict[str, dict[str, Any] | list[str]]:  # Any: a number, or places.
        """The fields that hold more than their number."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, int | float)}


def read_checkout(root: Path) -> Files:
    """The files of the source in a work tree, committed or not."""
    paths = sorted(path for path in (root / SOURCE).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {PurePosixPath(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths}


def read_revision(root: Path, revision: str) -> Files:
    """The files of the source as `revision` of the repository at `root` holds them."""
    packed = subprocess.run(["git", "-C", root, "archive", "--format=tar", revision, SOURCE], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        opened = ((member.name, archive.extractfile(member)) for member in archive)
        return {PurePosixPath(name): file.read().decode() for name, file in opened if file is not None}


def without(files: Files, rooms: Iterable[str]) -> Files:
    """`files` but for those of `rooms`: paths of packages and modules below the source."""
    left_out = [PurePosixPath(SOURCE, room) for room in rooms]
    return {path: text for path, text in files.items() if not any(room == path or room in path.parents for room in left_out)}


def measure(files: Files) -> House:
    """The figures of a source tree."""
    texts = {".".join(path.with_suffix("").parts[1:]): text for path, text in files.items() if path.suffix == ".py"}
    trees = {module: ast.parse(text) for module, text in texts.items()}
    own = [module for module in trees if _last(module) != "__init__"]
    packages = {_package(module): 0 for module in trees} | Counter(map(_package, own))
    public = {module: _public(module, tree) for module, tree in trees.items()}
    definitions = [definition for module, tree in trees.items() for definition in _definitions(module, tree)]
    functions = [(place, node) for place, node in definitions if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {place: (node.end_lineno or node.lineno) - node.lineno + 1 for place, node in functions}
    doubled = _double((_last(dotted), dotted, dotted) for dotted in (*own, *packages))
    return House(
        lines=sum(text.count("\n") for text in texts.values()),
        code_lines=sum(_code_lines(texts[module], tree) for module, tree in trees.items()),
        data_lines=sum(text.count("\n") for path, text in files.items() if path.suffix != ".py"),
        modules=len(own),
        packages=packages,
        largest_package=max(packages.values()),
        classes=sum(isinstance(node, ast.ClassDef) for tree in trees.values() for node in _top_level(tree.body)),
        public_names=sum(map(len, public.values())),
        double_names=_double((name, module, shape) for module, shapes in public.items() for name, shape in shapes.items()),
        double_modules=_double((_last(module), module, module) for module in own),
        double_packages={name: places for name, places in doubled.items() if packages.keys() & places},
        functions=len(lengths),
        functions_over_30={place: length for place, length in lengths.items() if length > AIM},
        functions_over_60={place: length for place, length in lengths.items() if length > STOP},
        share_at_most_30=round(sum(length <= AIM for length in lengths.values()) / max(len(lengths), 1), 4),
        loose_docstrings=[place for place, node in definitions if LOOSE.match(ast.get_docstring(node) or "")],
    )


def _package(module: str) -> str:
    return module.rpartition(".")[0]


def _last(dotted: str) -> str:
    return dotted.rpartition(".")[2]


def _top_level(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _top_level(ast.iter_child_nodes(node))


def _public(module: str, tree: ast.Module) -> dict[str, str]:
    """The public names of a module, each with its shape; definitions of the same name and shape mean the same."""
    shapes: dict[str, str] = {}
    for node in _top_level(tree.body):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                returns = ast.unparse(node.returns) if node.returns else None
                shapes[node.name] = f"{_package(module)} {type(node).__name__} ({ast.unparse(node.args)}) -> {returns}"
            case ast.Assign(value=ast.Call(func=ast.Name(id=called))) if called in TYPE_VARIABLES:
                pass
            case ast.Assign(targets=targets):
                names = (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
                shapes.update({name.id: module for name in names if isinstance(name.ctx, ast.Store)})
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.ClassDef(name=name):
                shapes[name] = module
    return {name: shape for name, shape in shapes.items() if not name.startswith("_")}


def _double(defined: Iterable[tuple[str, str, str]]) -> dict[str, list[str]]:
    """The names that have several shapes, with their places, from triples of name, place and shape."""
    places, shapes = defaultdict(list), defaultdict(set)
    for name, place, shape in defined:
        places[name].append(place)
        shapes[name].add(shape)
    return {name: sorted(places[name]) for name in sorted(places) if len(shapes[name]) > 1 and name not in ENTRIES}


def _definitions(module: str, tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """The module itself, and every class and function in it, each with its place."""
    for node in ast.walk(tree):
        match node:
            case ast.Module():
                yield f"{module}:1 module", node
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield f"{module}:{node.lineno} {node.name}", node


def _code_lines(text: str, tree: ast.Module) -> int:
    bare, lines = set[int](), set[int]()
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                bare.update(range(first, last + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NOT_CODE and not (token.type == tokenize.STRING and token.start[0] in bare):
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def report(houses: list[House], *, lists: bool) -> Iterator[str]:
    """The lines of the table: a row per figure, of two houses with their ratio; then the `lists` behind the figures of the last."""
    columns = [house.figures() for house in houses]
    if len(houses) > 1:
        yield f"{'':<20}{'before':>10}{'after':>10}{'ratio':>8}"
    for name in columns[0]:
        values = [column[name] for column in columns]
        ratio = f"{values[1] / values[0]:>8.2f}" if len(values) > 1 and values[0] else ""
        yield f"{name.replace('_', ' '):<20}" + "".join(f"{value:>10}" for value in values) + ratio
    for name, things in houses[-1].lists().items() if lists else ():
        yield f"\n{name.replace('_', ' ')}:"
        for thing in things:
            behind = things[thing] if isinstance(things, dict) else ""
            yield f"  {thing:<40} {', '.join(behind) if isinstance(behind, list) else behind}".rstrip()


def main(arguments: list[str]) -> None:
    """Prints the figures of one checkout or two."""
    parser = argparse.ArgumentParser(description="Measure the source of one checkout, or of two side by side.")
    parser.add_argument("checkouts", nargs="*", type=Path, metavar="CHECKOUT", help="the root of a checkout (default: this one)")
    parser.add_argument("--before", metavar="REVISION", help="measure this revision of the checkout's repository beside it")
    parser.add_argument("--without", metavar="ROOMS", default="", help="leave out these packages and modules, as kafka,tolaria/wiring")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a list of one object per checkout, with its figures and lists")
    form.add_argument("--lists", action="store_true", help="the lists behind the figures, under the table")
    chosen = parser.parse_args(arguments)
    roots = chosen.checkouts or [Path(__file__).resolve().parents[1]]
    trees = ([read_revision(roots[0], chosen.before)] if chosen.before else []) + [read_checkout(root) for root in roots]
    if len(trees) > 2 or not all(trees):
        parser.error(f"expected one checkout or two, each with {SOURCE}")
    rooms = [room for room in chosen.without.split(",") if room]
    unknown = [room for room in rooms if all(len(without(files, [room])) == len(files) for files in trees)]
    if unknown:
        parser.error(f"expected packages and modules below {SOURCE}, got {unknown[0]}")
    houses = [measure(without(files, rooms)) for files in trees]
    if chosen.json:
        print(json.dumps([{"figures": house.figures(), "lists": house.lists()} for house in houses], indent=2))
    else:
        print(*report(houses, lists=chosen.lists), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
