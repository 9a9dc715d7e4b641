"""A resumed run catches up: each fact that the log holds after the checkpoint is compared with the one emitted again, not written again.

A training that is resumed runs the epochs after its checkpoint again. Each fact that it emits must equal the next logged one in its topic,
type, epoch, step and comparison form (payload without volatile fields). Ids need no translation: `Emitter.emit` returns the logged id.
RunResumed, SamplesDropped, ClockJumped, StreamEnded, TrainingDescribed and RunFailed are not compared: they depend on the machine, or
on the code that goes on, or are the failure that the resume repairs.

RunStarted is compared at every resume, from whichever checkpoint: where no fact is left to compare, nothing else would notice other data or
settings. Its code, packages, hardware, what torch's libraries were told, who said to have started and approved it under which account, and
the user's name, tags, notes and config are not compared: RunStarted keeps what it says, and RunResumed records the changes. Where the code
gives another model, optimizer, loss, loader or source than the last TrainingDescribed has, RunResumed names them, and a new
TrainingDescribed follows; optimizer and scheduler are compared only where no checkpoint restores them.
"""

from collections import deque

from pydantic import JsonValue

from esper.errors import LogError
from esper.events.codec import decode, decode_as
from esper.events.digests import comparison_form
from esper.events.envelope import EventId, Moment, Record
from esper.events.fields import Event
from esper.events.kinds.run import ClockJumped, RunFailed, RunResumed, RunStarted, SamplesDropped, StreamEnded
from esper.events.kinds.training_description import TrainingDescribed
from esper.events.topics import FACTS
from esper.oona.contract import Log, records_of

_OUTSIDE = frozenset(kind.KIND for kind in (RunResumed, SamplesDropped, ClockJumped, StreamEnded, RunFailed, TrainingDescribed))
_ENVIRONMENT = frozenset({"code", "packages", "hardware"})
_NOT_COMPARED = ("by", "approved_by", "account", "name", "tags", "notes", "config")
_RESTORED = ("optimizer", "groups", "scheduler")


class DivergedError(LogError):
    """A resumed run emitted another fact than the log has at `where`, a topic, sequence and field: it is another training."""

    def __init__(self, record: Record, field: str, expected: object, got: object) -> None:
        self.where = f"topic {record.topic}, sequence {record.sequence}, field {field}"
        super().__init__(
            f"run {record.run} diverged from its log at topic {record.topic}, sequence {record.sequence} (moment {record.moment}, "
            f"epoch {record.epoch}, step {record.step}): expected {field} {expected!r}, got {got!r}"
        )


class CatchUp:
    """The logged facts that a resumed run must emit again, in fact order. One Emitter consumes them."""

    def __init__(self, log: Log, after: Moment | None, checkpoint: str | None) -> None:
        """Reads the facts of `log`, and keeps those after moment `after`: all of them for None, when there is no `checkpoint`."""
        self.environment_changes: tuple[str, ...] = ()
        self.described: TrainingDescribed | None = None
        """To be emitted after RunResumed; None: the log has it."""
        self._checkpoint = checkpoint
        self._matched_to = Moment(after or 0)
        self._logged_to = Moment(0)
        self._started: Record | None = None
        self._described: Record | None = None
        self._pending: deque[Record] = deque()
        for record in records_of(log, FACTS):
            self._logged_to = record.moment
            if record.type == RunStarted.KIND:
                self._started = record
            if record.type == TrainingDescribed.KIND:
                self._described = record
            if record.moment > self._matched_to and record.type not in _OUTSIDE:
                self._pending.append(record)

    @property
    def pending_facts(self) -> tuple[Record, ...]:
        """The logged facts that were not emitted again yet, in fact order."""
        return tuple(self._pending)

    @property
    def pending(self) -> bool:
        """True while there are pending facts."""
        return bool(self._pending)

    def resumed(self, incarnation: int) -> RunResumed:
        """The first new record of a resumed run. Log and execution agree up to its `caught_up_to`."""
        return RunResumed(
            checkpoint=self._checkpoint,
            caught_up_to=self._matched_to if self._pending else self._logged_to,
            incarnation=incarnation,
            environment_changes=self.environment_changes,
        )

    def compare_start(self, event: RunStarted, described: TrainingDescribed) -> None:
        """Compares the start of this execution with the run's, and notes changes of the environment and of the training for RunResumed.

        Raises DivergedError, naming the field, for another task, other settings, data or sites.
        """
        if self._started is None:
            return
        _require_same(self._started, event, epoch=self._started.epoch, step=self._started.step)
        before, after = _environment(decode_as(self._started, RunStarted)), _environment(event)
        unsaid = {name for name in _NOT_COMPARED if not after[name]}  # Nobody else was named.
        changed = (name for name in sorted((before.keys() | after.keys()) - unsaid) if before.get(name) != after.get(name))
        self.environment_changes = tuple(f"{name} was {before.get(name)!r}, is {after.get(name)!r}" for name in changed)
        self._compare_description(described)

    def _compare_description(self, event: TrainingDescribed) -> None:
        """Keeps `event` for after RunResumed where it is not what the log has."""
        if self._described is None:
            self.described = event
            return
        before = decode_as(self._described, TrainingDescribed)
        event = event.model_copy(update={name: getattr(before, name) for name in _RESTORED} if self._checkpoint is not None else {})
        if before.sources is None:  # Who asked once that the source is left out need not ask again.
            event = event.model_copy(update={"sources": None})
        changed = [name for name in TrainingDescribed.model_fields if getattr(before, name) != getattr(event, name)]
        if changed:
            self.described = event
            self.environment_changes += (f"{', '.join(changed)} changed: the next TrainingDescribed has what was given now",)

    def match_next(self, event: Event, *, epoch: int, step: int) -> EventId:
        """The id of the next pending fact. Raises DivergedError, naming place and field, where `event` is not that fact."""
        record = self._pending[0]
        _require_same(record, event, epoch=epoch, step=step)
        self._pending.popleft()
        self._matched_to = record.moment
        return record.id


def _environment(event: RunStarted) -> dict[str, JsonValue]:
    """Code, packages, hardware, what torch's libraries were told, and people, by name."""
    form = comparison_form(event, str)
    assert isinstance(form, dict)
    parts = {name: form[name] for name in _ENVIRONMENT}
    named = {f"{name}.{key}": value for name, part in parts.items() if isinstance(part, dict) for key, value in part.items()}
    libraries: dict[str, JsonValue] = {f"variable {name}": value for name, value in event.determinism.variables.items()}
    named |= libraries | {"code path of MKL": event.determinism.mkl_cbwr}
    return named | {name: getattr(event, name) for name in _NOT_COMPARED}


def _require_same(record: Record, event: Event, *, epoch: int, step: int) -> None:
    """Raises DivergedError at the first difference. The type implies the topic."""
    for field, expected, got in (("type", record.type, event.KIND), ("epoch", record.epoch, epoch), ("step", record.step, step)):
        if expected != got:
            raise DivergedError(record, field, expected, got)
    difference = _first_difference(_form(decode(record)), _form(event))
    if difference is not None:
        raise DivergedError(record, *difference)


def _form(event: Event) -> JsonValue:
    form = comparison_form(event, str)
    if isinstance(event, RunStarted) and isinstance(form, dict):
        return {name: value for name, value in form.items() if name not in _ENVIRONMENT}
    return form


def _first_difference(expected: JsonValue, got: JsonValue, path: str = "data") -> tuple[str, object, object] | None:
    """The first place where two JSON values differ, with its value in each; None when they are equal."""
    if isinstance(expected, dict) and isinstance(got, dict):
        pairs = [
            (f"{path}.{name}", expected.get(name, "(absent)"), got.get(name, "(absent)")) for name in sorted(expected.keys() | got.keys())
        ]
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        pairs = [(f"{path}[{index}]", *values) for index, values in enumerate(zip(expected, got, strict=True))]
    else:
        return None if expected == got and type(expected) is type(got) else (path, expected, got)
    differences = (_first_difference(wanted, found, place) for place, wanted, found in pairs)
    return next((difference for difference in differences if difference is not None), None)
