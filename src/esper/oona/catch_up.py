"""Resume is catching up: what the log holds after a checkpoint is met again, fact by fact, and nothing of it is written twice.

A training that is resumed runs the epochs after its checkpoint again. Each fact that it emits must be the one that the log has at that
place: the same topic, type, epoch and step, and the same comparison form (payload without volatile fields). Ids need no translation here,
because `Emitter.emit` answers with the logged id. RunResumed, SamplesDropped, StreamEnded and RunFailed stand outside: they depend on
how fast the machine was, or are what the resume gets over.

RunStarted is compared at every resume, from whichever checkpoint: where no fact is to be met again, nothing else would notice other data
or settings. In it code, packages and hardware are not compared: their changes stand in RunResumed.
"""

from collections import deque

from pydantic import JsonValue

from esper.errors import LogError
from esper.events.codec import decode, decode_as
from esper.events.digests import comparison_form
from esper.events.envelope import EventId, Moment, Record
from esper.events.fields import Event
from esper.events.kinds.run import RunFailed, RunResumed, RunStarted, SamplesDropped, StreamEnded
from esper.events.topics import FACTS
from esper.oona.contract import Log, records_of

OUTSIDE = frozenset({RunResumed.KIND, SamplesDropped.KIND, StreamEnded.KIND, RunFailed.KIND})
_ENVIRONMENT = frozenset({"code", "packages", "hardware"})


class DivergedError(LogError):
    """A resumed run said something else than the log has at `where`, a topic, sequence and field: it is not the same training any more."""

    def __init__(self, record: Record, field: str, expected: object, got: object) -> None:
        self.where = f"topic {record.topic}, sequence {record.sequence}, field {field}"
        super().__init__(
            f"run {record.run} diverged from its log at topic {record.topic}, sequence {record.sequence} (moment {record.moment}, "
            f"epoch {record.epoch}, step {record.step}): expected {field} {expected!r}, got {got!r}"
        )


class CatchUp:
    """What a resumed run must meet again, in fact order. Made by `catch_up`, consumed by one Emitter."""

    def __init__(
        self,
        expected: tuple[Record, ...],
        *,
        started: Record | None,
        after: Moment | None,
        logged_to: Moment,
        checkpoint: str | None,
    ) -> None:
        self.checkpoint = checkpoint
        self.environment_changes: tuple[str, ...] = ()
        self._started = started
        self._expected = deque(expected)
        self._met = Moment(after or 0)
        self._logged_to = logged_to

    @property
    def upcoming(self) -> tuple[Record, ...]:
        """The logged facts that were not met again yet, in fact order."""
        return tuple(self._expected)

    @property
    def pending(self) -> bool:
        """True while logged facts are still to be met."""
        return bool(self._expected)

    @property
    def caught_up_to(self) -> Moment:
        """The moment up to which the log and this execution agree: all of it once nothing is pending."""
        return self._met if self._expected else self._logged_to

    def resumed(self, incarnation: int) -> RunResumed:
        """What a resumed run says first."""
        return RunResumed(
            checkpoint=self.checkpoint,
            caught_up_to=self.caught_up_to,
            incarnation=incarnation,
            environment_changes=self.environment_changes,
        )

    def compare_start(self, event: RunStarted) -> None:
        """Holds how this execution starts against how the run began. What changed around it will stand in RunResumed.

        Raises DivergedError, naming the field, for another task, other settings, data or sites.
        """
        if self._started is None:
            return
        _require_same(self._started, event, epoch=self._started.epoch, step=self._started.step)
        began = decode_as(self._started, RunStarted)
        self.environment_changes = environment_changes(began, event)

    def meet(self, event: Event, *, epoch: int, step: int) -> EventId:
        """The id of the logged fact that `event` is again. Raises DivergedError, naming place and field, when it is not that fact."""
        record = self._expected[0]
        _require_same(record, event, epoch=epoch, step=step)
        self._expected.popleft()
        self._met = record.moment
        return record.id


def catch_up(log: Log, after: Moment | None, checkpoint: str | None) -> CatchUp:
    """What `log` holds after moment `after` (None: all of it, when there is no checkpoint). Reads the log's facts; keeps those after it."""
    expected: list[Record] = []
    started: Record | None = None
    last = Moment(0)
    for record in records_of(log, FACTS):
        last = record.moment
        if record.type == RunStarted.KIND:
            started = record
        if record.moment > (after or 0) and record.type not in OUTSIDE:
            expected.append(record)
    return CatchUp(tuple(expected), started=started, after=after, logged_to=last, checkpoint=checkpoint)


def environment_changes(began: RunStarted, now: RunStarted) -> tuple[str, ...]:
    """What of code, packages and hardware is not as it was when the run began, one sentence each."""
    before, after = _environment(began), _environment(now)
    changed = (name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name))
    return tuple(f"{name} was {before.get(name)!r}, is {after.get(name)!r}" for name in changed)


def _environment(event: RunStarted) -> dict[str, JsonValue]:
    """By dotted name; what is absent is None."""
    form = comparison_form(event, str)
    assert isinstance(form, dict)
    parts = {name: form[name] for name in _ENVIRONMENT}
    return {f"{name}.{key}": value for name, part in parts.items() if isinstance(part, dict) for key, value in part.items()}


def _form(event: Event) -> JsonValue:
    form = comparison_form(event, str)
    if isinstance(event, RunStarted) and isinstance(form, dict):
        return {name: value for name, value in form.items() if name not in _ENVIRONMENT}
    return form


def _require_same(record: Record, event: Event, *, epoch: int, step: int) -> None:
    difference = _difference(record, event, epoch=epoch, step=step)
    if difference is not None:
        raise DivergedError(record, *difference)


def _difference(record: Record, event: Event, *, epoch: int, step: int) -> tuple[str, object, object] | None:
    place: tuple[tuple[str, object, object], ...] = (
        ("type", record.type, event.KIND),  # Which says the topic too.
        ("epoch", record.epoch, epoch),
        ("step", record.step, step),
    )
    for field, wanted, came in place:
        if wanted != came:
            return field, wanted, came
    return first_difference(_form(decode(record)), _form(event))


def first_difference(expected: JsonValue, got: JsonValue, path: str = "data") -> tuple[str, object, object] | None:
    """Where two JSON values differ first, with what stands there in each; None when they are equal."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for name in sorted(expected.keys() | got.keys()):
            found = first_difference(expected.get(name, "(absent)"), got.get(name, "(absent)"), f"{path}.{name}")
            if found is not None:
                return found
        return None
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        return next(
            (
                found
                for index, (wanted, came) in enumerate(zip(expected, got, strict=True))
                if (found := first_difference(wanted, came, f"{path}[{index}]")) is not None
            ),
            None,
        )
    return None if expected == got and type(expected) is type(got) else (path, expected, got)
