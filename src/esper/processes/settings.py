"""The settings of a run, put together from defaults, the task, a TOML file and the command line, and checked before anything starts.

A setting has a dotted name, `<section>.<key>`: that is how `--set` names it, how RunStarted records it, and, as a table with a key, how a
TOML file writes it. What a file or an option does not name comes from the task, else from the component's own default. An unknown name is
an error that says which exist.
"""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Literal, cast, get_args, get_origin, get_type_hints

from pydantic import JsonValue, ValidationError

from esper.errors import SettingsError
from esper.events.kinds.epoch import GateSettings
from esper.tamiyo.settings import PolicySettings
from esper.tolaria.settings import TrainerSettings

Named = dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class GrowthSettings:
    """Where and with what a host may grow."""

    enabled: bool = True
    """False trains the host alone; the log is the same, and nothing grows."""

    sites: str = "auto"
    """Which layers are sites: a glob over their names, or "auto"."""

    blueprints: tuple[str, ...] | None = None
    """What seeds may be made of, like "mlp:24"; None: the first set of the layer's kind."""

    slots: int = 4
    """Seeds that may live at one site at a time."""

    max_parameters: float = 2.0
    """Growth stops at this many times the host's own parameters; a tiny host needs more room than a large one."""

    seed_lr: float = 2.0
    """A seed's learning rate, as a multiple of the host's at its germination. Measured on digits: 1 gives +2.0 points, 2 gives +2.7."""

    clip: float | None = 1.0
    """Largest gradient norm of each seed, apart from the host's."""

    def __post_init__(self) -> None:
        # Written so that NaN fails: every comparison with it is false.
        _require("slots", self.slots, self.slots >= 1, "a whole number of at least 1")
        _require("max_parameters", self.max_parameters, 1 <= self.max_parameters < math.inf, "a finite number of at least 1")
        _require("seed_lr", self.seed_lr, 0 < self.seed_lr < math.inf, "a finite number above 0")
        _require("clip", self.clip, self.clip is None or 0 < self.clip < math.inf, "a finite number above 0, or nothing")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything a run is trained by, but for what only code can give: the model, the data, the loss."""

    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    growth: GrowthSettings = field(default_factory=GrowthSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    gate: GateSettings = field(default_factory=GateSettings)

    def __post_init__(self) -> None:
        for name, value in self.gate:
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"setting gate.{name}: expected a finite number, got {value!r}: NaN passes no limit")

    def named(self) -> Named:
        """Every setting by its dotted name, as JSON; what RunStarted records."""
        found: Named = {}
        parts = {"trainer": asdict(self.trainer), "growth": asdict(self.growth), "policy": asdict(self.policy)}
        for section, values in (parts | {"gate": self.gate.model_dump()}).items():
            found |= {f"{section}.{key}": list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return found


def settings_from(*layers: Mapping[str, JsonValue]) -> Settings:
    """The settings that `layers` of dotted names give, later ones first. Raises SettingsError naming the setting."""
    merged: Named = {}
    for layer in layers:
        merged |= layer
    known = Settings().named()
    for name in merged:
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}: expected one of {', '.join(sorted(known))}")
    parts = {section: _section(section, merged) for section in ("trainer", "growth", "policy")}
    return Settings(
        trainer=cast("TrainerSettings", _made(TrainerSettings, parts["trainer"], "trainer")),
        growth=cast("GrowthSettings", _made(GrowthSettings, parts["growth"], "growth")),
        policy=cast("PolicySettings", _made(PolicySettings, parts["policy"], "policy")),
        gate=_gate(_section("gate", merged)),
    )


def read_toml(path: Path) -> tuple[str | None, Named]:
    """The task that a TOML file names, if any, and its settings by dotted name. Raises SettingsError naming the file."""
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"settings file {path}: expected readable TOML: {error}") from error
    task = document.pop("task", None)
    if task is not None and not isinstance(task, str):
        raise SettingsError(f"settings file {path}: expected `task` to be a text, got {task!r}")
    found: Named = {}
    for section, values in document.items():
        if not isinstance(values, dict):
            raise SettingsError(f"settings file {path}: expected a table [{section}], got {section} = {values!r}")
        found |= {f"{section}.{key}": value for key, value in values.items()}
    return task, found


def parse_assignment(text: str) -> Named:
    """One `--set name=value`; the value is JSON, or a bare text. Raises SettingsError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingsError(f"--set: expected name=value, got {text!r}")
    try:
        return {name: json.loads(value)}
    except json.JSONDecodeError:
        return {name: value}


def _section(section: str, merged: Named) -> Named:
    prefix = f"{section}."
    return {name.removeprefix(prefix): value for name, value in merged.items() if name.startswith(prefix)}


def _made(kind: type[TrainerSettings | GrowthSettings | PolicySettings], values: Named, section: str) -> object:
    declared = get_type_hints(kind)
    for key, value in values.items():
        if not _fits(value, declared[key]):
            raise SettingsError(f"setting {section}.{key}: expected {_in_words(declared[key])}, got {value!r}")
    typed = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**typed)  # type: ignore[arg-type] # checked just above, against what is declared
    except SettingsError as error:
        raise SettingsError(f"{section}: {error}") from error


def _fits(value: JsonValue, declared: object) -> bool:
    """Whether `value`, as JSON gives it, is of the type that a setting declares; a whole number is a number, a truth value is none."""
    if get_origin(declared) is UnionType:
        return any(_fits(value, one) for one in get_args(declared))
    if get_origin(declared) is Literal:
        return value in get_args(declared)
    if get_origin(declared) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(declared)[0]) for item in value)
    if declared is float:
        return type(value) in (int, float)
    return type(value) is declared


_WORDS: dict[object, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "nothing",
    tuple[str, ...]: "a list of texts",
    tuple[float, ...]: "a list of numbers",
}


def _in_words(declared: object) -> str:
    if get_origin(declared) is UnionType:
        return ", or ".join(_in_words(one) for one in get_args(declared))
    return f"one of {', '.join(get_args(declared))}" if get_origin(declared) is Literal else _WORDS[declared]


def _gate(values: Named) -> GateSettings:
    try:
        return GateSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"setting gate.{key}: {first['msg']}, got {values.get(key)!r}") from error


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise SettingsError(f"setting {name}: expected {expected}, got {value!r}")
