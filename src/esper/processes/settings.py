"""The settings of a run, put together from defaults, the task, a TOML file and the command line, and checked before anything starts.

A setting has a dotted name, `<section>.<key>`: that is how `--set` names it, how RunStarted records it, and, as a table with a key, how a
TOML file writes it. What a file or an option does not name comes from the task, else from the component's own default. An unknown name is
an error that says which exist.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, TypeAdapter, field_validator

from esper.errors import SettingsError
from esper.events.fields import Finite, Part, Positive
from esper.events.kinds.epoch import GateSettings
from esper.settings import TomlFile, nearest, read_text, settings_of
from esper.tamiyo.settings import PolicySettings
from esper.tolaria.settings import Clip, TrainerSettings

Named = dict[str, JsonValue]
_LIMITS = TypeAdapter(dict[str, Finite])


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

    @field_validator("gate")
    @classmethod
    def _finite(cls, gate: GateSettings) -> GateSettings:
        """Refuses limits that an event may record and no value passes."""
        _LIMITS.validate_python({name: value for name, value in gate if isinstance(value, float)})
        return gate

    def named(self) -> Named:
        """Every setting by its dotted name, as JSON; what RunStarted records."""
        return _dotted(self.model_dump(mode="json"))


class _TrainingFile(Settings):
    task: str | None = None


def settings_from(*layers: Mapping[str, JsonValue]) -> Settings:
    """The settings that `layers` of dotted names give, later ones first. Raises SettingsError naming the setting."""
    known = Settings().named()
    sections: dict[str, dict[str, object]] = {}
    for name, value in (item for layer in layers for item in layer.items()):
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}{nearest(name, known)}; there are: {', '.join(sorted(known))}")
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return settings_of(Settings, sections)


def read_toml(path: Path) -> tuple[str | None, Named]:
    """The task that a TOML file names, if any, and its settings by dotted name. Raises SettingsError naming file and line."""
    found = read_text("settings", path)
    assert found is not None, "a path is given"
    written = TomlFile(*found).table(_TrainingFile).model_dump(mode="json", exclude_unset=True)
    return written.pop("task", None), _dotted(written)


def _dotted(sections: Mapping[str, Mapping[str, JsonValue]]) -> Named:
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def parse_assignment(text: str) -> Named:
    """One `--set name=value`; the value is JSON, or a bare text. Raises SettingsError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingsError(f"--set: expected name=value, got {text!r}")
    try:
        return {name: json.loads(value)}
    except json.JSONDecodeError:
        return {name: value}
