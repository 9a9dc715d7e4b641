"""The settings of a run, put together from defaults, the task, a TOML file and the command line, and checked before anything starts.

A setting has a dotted name, `<section>.<key>`: that is how `--set` names it, how RunStarted records it, and, as a table with a key, how a
TOML file writes it. What a file or an option does not name comes from the task, else from the component's own default. An unknown name is
an error that says which exist.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, ValidationError

from esper.errors import SettingsError
from esper.events.fields import Finite, Part, Positive
from esper.events.kinds.epoch import GateSettings
from esper.tamiyo.settings import PolicySettings
from esper.tolaria.settings import Clip, TrainerSettings

Named = dict[str, JsonValue]


class GrowthSettings(Part):
    """Where and with what a host may grow."""

    enabled: bool = True
    """False trains the host alone; the log is the same, and nothing grows."""

    sites: str = "auto"
    """Which layers are sites: a glob over their names, or "auto"."""

    blueprints: tuple[str, ...] | None = None
    """What seeds may be made of, like "mlp:24"; None: the first set of the layer's kind."""

    slots: Positive = 4
    """Seeds that may live at one site at a time."""

    max_parameters: Annotated[Finite, Field(ge=1)] = 2.0
    """Growth stops at this many times the host's own parameters; a tiny host needs more room than a large one."""

    seed_lr: Annotated[Finite, Field(gt=0)] = 2.0
    """A seed's learning rate, as a multiple of the host's at its germination. Measured on digits: 1 gives +2.0 points, 2 gives +2.7."""

    clip: Clip | None = 1.0
    """Largest gradient norm of each seed, apart from the host's."""


class Settings(Part):
    """Everything a run is trained by, but for what only code can give: the model, the data, the loss."""

    trainer: TrainerSettings = TrainerSettings()
    growth: GrowthSettings = GrowthSettings()
    policy: PolicySettings = PolicySettings()
    gate: GateSettings = GateSettings()

    def named(self) -> Named:
        """Every setting by its dotted name, as JSON; what RunStarted records."""
        sections = self.model_dump(mode="json")
        return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def settings_from(*layers: Mapping[str, JsonValue]) -> Settings:
    """The settings that `layers` of dotted names give, later ones first. Raises SettingsError naming the setting."""
    known = Settings().named()
    sections: dict[str, dict[str, object]] = {}
    for layer in layers:
        for name, value in layer.items():
            if name not in known:
                raise SettingsError(f"unknown setting {name!r}{_nearest(name, known)}; there are: {', '.join(sorted(known))}")
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = tuple(value) if isinstance(value, list) else value
    try:
        settings = Settings.model_validate(sections)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"][:2]))
        raise SettingsError(f"setting {name}: {_in_words(first['msg'])}, got {first['input']!r}") from error
    for key, value in settings.gate:
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"setting gate.{key}: expected a finite number, got {value!r}: NaN passes no limit")
    return settings


def _nearest(name: str, known: Named) -> str:
    """A hint at what was probably meant; empty where nothing is like it."""
    meant = [one for one in known if one.endswith(f".{name}")] or get_close_matches(name, known, n=1)
    return f", perhaps {meant[0]}" if meant else ""


def _in_words(message: str) -> str:
    return re.sub(r"^Input should be (?=greater|less)", "expected a number ", message).replace("Input should be", "expected")


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
