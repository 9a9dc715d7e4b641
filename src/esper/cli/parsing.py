"""The parser of every command: its examples, and the nearest known word for one that is not known."""

import argparse
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any, NoReturn

from esper.cli.commands import (
    alerts,
    audit_tables,
    completion,
    compliance_checks,
    diff,
    distributed,
    doctor,
    log,
    pruning,
    querying,
    replay,
    reporting,
    runs,
    services,
    show,
    sign_off_and_hold,
    trainings,
)
from esper.settings import nearest

_COMMANDS = (
    trainings,
    runs,
    show,
    diff,
    log,
    replay,
    services,
    alerts,
    doctor,
    querying,
    audit_tables,
    compliance_checks,
    reporting,
    sign_off_and_hold,
    pruning,
    distributed,
    completion,
)
EXAMPLES = {
    "": "esper demo",
    "train": "esper train digits --epochs 20 --set growth.slots=2",
    "demo": "esper demo --log runs",
    "resume": "esper resume latest",
    "runs": "esper runs --log runs",
    "show": "esper show latest --epoch 10",
    "diff": "esper diff latest 01a22c",
    "log": "esper log latest --topic decisions",
    "export": "esper export latest --format jsonl --out exported",
    "replay": "esper replay latest --speed 4",
    "observe": "esper observe --from-start",
    "rebuild": "esper rebuild latest",
    "nissa": "esper nissa --port 9109",
    "agent": "esper agent --interval 10",
    "alerts": "esper alerts list",
    "alerts list": "esper alerts list latest",
    "alerts ack": 'esper alerts ack 7c21ab-3f9a2c1d --for 2h --by Ada --note "the learning rate is lowered"',
    "alerts rules": "esper alerts rules",
    "alerts test": "esper alerts test --delivery delivery.toml",
    "doctor": "esper doctor --all",
    "sql": 'esper sql "select run, task, parameters from runs" --format csv',
    "audit": "esper audit refresh",
    "audit refresh": "esper audit refresh --log runs",
    "audit follow": "esper audit follow --log runs",
    "audit status": "esper audit status",
    "audit schema": "esper audit schema runs",
    "audit rebuild": "esper audit rebuild --log runs",
    "audit publish": "esper audit publish tables",
    "compliance": "esper compliance latest --strict",
    "report": "esper report latest --out report",
    "sign-off": 'esper sign-off latest --by Ada --role reviewer --note "accuracy as agreed"',
    "hold": 'esper hold latest --until 2036-12-31 --by Ada --why "under review"',
    "prune": "esper prune --older-than 90d --keep-tag release",
    "topics": "esper topics check --kafka kafka://localhost:9092",
    "bridge": "esper bridge --kafka kafka://localhost:9092 --drain",
    "mirror": "esper mirror --log kafka://localhost:9092",
    "worker": "esper worker --kafka kafka://localhost:9092",
    "deliver": "esper deliver --log kafka://localhost:9092",
    "completion": 'eval "$(esper completion bash)"',
}
"""A command line for the help of each command."""


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest known word for a command, a choice or an option that it does not know."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override] # Any: as argparse has it.
        """The arguments; exits with 2 where one is not understood."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            found.parser.refuse_argument(unknown[0])
        return found

    def refuse_argument(self, word: str) -> NoReturn:
        """Exits with 2 for an argument that this command does not take."""
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        name = word.partition("=")[0]
        hint = nearest(name, options) if name.startswith("-") else ""
        self.error(f"unknown argument {name}{hint}; {self.prog} --help lists those that there are")

    def _check_value(self, action: argparse.Action, value: Any) -> None:  # Any: what a type of argparse made of the word.
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"
            raise argparse.ArgumentError(action, f"unknown {what} {value!r}{nearest(str(value), known)}; there are: {', '.join(known)}")


def build_parser() -> Parser:
    """The parser of every command."""
    parser = Parser(prog="esper", description="Trains networks that grow while they train, and shows their runs from a log.")
    parser.add_argument("--version", action="version", version=f"esper {version('esper-training')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in _COMMANDS:
        module.add(commands)
    for words, part in parsers_of(parser):
        part.set_defaults(parser=part)
        part.formatter_class = argparse.RawDescriptionHelpFormatter
        part.epilog = f"example:\n  {EXAMPLES[' '.join(words)]}"
    return parser


def parsers_of(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """`parser` and those of its commands, each with the words that lead to it."""
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from parsers_of(inner, (*words, name))
