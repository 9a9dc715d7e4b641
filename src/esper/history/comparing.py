"""Settings and outcomes of runs as flat names and values, so that two runs can be laid side by side."""

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from pydantic import BaseModel, JsonValue

from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import RunFinished, RunStarted
from esper.events.kinds.training_description import TrainingDescribed
from esper.history.run_history import FoldedRun
from esper.words import not_finite

Flat = Mapping[str, JsonValue]


class ComparedValue(NamedTuple):
    """A name with its value in each of two runs; None: the run has none of that name."""

    name: str
    one: JsonValue
    other: JsonValue

    @property
    def differs(self) -> bool:
        """True where the two are not the same; NaN, a word here, is the same as NaN."""
        return self.one != self.other


class SideBySide(NamedTuple):
    """Two runs: what each was trained by, and what came of it."""

    runs: tuple[str, str]
    settings: tuple[ComparedValue, ...]
    outcomes: tuple[ComparedValue, ...]


def side_by_side(one: FoldedRun, other: FoldedRun) -> SideBySide:
    """Every setting and every outcome that either run has, in the order of the first."""

    def compared(flat: Callable[[FoldedRun], Flat]) -> tuple[ComparedValue, ...]:
        first, second = flat(one), flat(other)
        return tuple(ComparedValue(name, first.get(name), second.get(name)) for name in dict.fromkeys(chain(first, second)))

    return SideBySide((one.run, other.run), compared(settings_of_run), compared(outcomes))


def settings_of_run(folded: FoldedRun) -> Flat:
    """The training of a run, by dotted names: what it was given by code, its settings, config, data, packages and machine."""
    started, described = folded.timeline.started, folded.timeline.described
    found = {} if started is None else dict(_of_start(started))
    return found if described is None else found | dict(_of_description(described))


def outcomes(folded: FoldedRun) -> Flat:
    """The outcome of a run as far as it is known."""
    state, telemetry = folded.state, folded.telemetry
    completed = folded.timeline.completed
    stages = [life.stage for life in folded.timeline.lives if not life.undone]
    found: dict[str, JsonValue] = {
        "status": state.status.value,
        "epochs": state.epochs[-1].epoch if state.epochs else 0,
        "best_validation_loss": None if completed is None else _word(completed.system.best_loss),
        "best_epoch": None if completed is None else completed.system.best_epoch,
        "parameters": state.end.parameters if isinstance(state.end, RunFinished) else state.epochs[-1].parameters if state.epochs else None,
        "seeds_started": len(stages),
        "seeds_kept": stages.count(Stage.FOSSILIZED),
        "rollbacks": len(state.rollbacks),
        "resumes": max(0, state.incarnation - 1),
        "duration_s": _seconds(telemetry.first_time, telemetry.last_time),
    }
    if isinstance(state.end, RunFinished):
        found |= {f"metrics.{name}": _word(value) for name, value in state.end.metrics.items()}
    elif state.epochs and state.epochs[-1].validation is not None:
        found["metrics.validation_loss"] = _word(state.epochs[-1].validation.loss)
    return found


def _of_start(started: RunStarted) -> Iterator[tuple[str, JsonValue]]:
    form = started.model_dump(mode="json")
    yield from ((name, form[name]) for name in ("task", "name", "tags", "notes", "by", "approved_by", "rng_seed", "parameters"))
    for part in ("config", "code", "data", "packages", "determinism", "hardware"):
        yield from _flat(part, form[part])
    yield from _flat("", form["settings"])


def _of_description(described: TrainingDescribed) -> Iterator[tuple[str, JsonValue]]:
    form = described.model_dump(mode="json", exclude={"model": {"modules"}})
    for source in form["sources"] or ():
        del source["text"]  # Its digest says whether it is the same.
    form["groups"] = {str(number): group for number, group in enumerate(form["groups"])}
    for row in described.model.modules:
        form["model"][f"modules.{row.name or '(itself)'}"] = module_words(row)
    yield from _flat("", form)


def module_words(row: BaseModel) -> str:
    """A module of a model in one line: its class, shapes and options, as the log has them."""
    form = row.model_dump(mode="json", exclude={"name"})
    kind = str(form.pop("kind")).rpartition(".")[2]
    shapes = [f"{name} {'x'.join(map(str, shape)) or 'number'}" for name, shape in form["shapes"].items()]
    options = [f"{name}={value}" for name, value in form["options"].items()]
    frozen = [f"{form['parameters'] - form['trainable']:,} frozen"] if form["trainable"] < form["parameters"] else []
    same = [] if form["same_as"] is None else [f"the same as {form['same_as']}"]
    return " ".join((kind, ", ".join((*shapes, *options, *frozen, *same)))).rstrip()


def _flat(name: str, value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    """`value` under `name`; parts of an object under dotted names, parts of a list that have names under these."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        value = {
            str(item["name"]): {key: inner for key, inner in item.items() if key != "name"} for item in value if isinstance(item, dict)
        }
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else key, inner)
    elif value not in ({}, []):
        yield name, value


def _word(value: float | None) -> JsonValue:
    """A number of the log as JSON: one that is not finite by its word."""
    return value if value is None or math.isfinite(value) else not_finite(value)


def _seconds(first: datetime | None, last: datetime | None) -> float | None:
    return None if first is None or last is None else (last - first).total_seconds()
