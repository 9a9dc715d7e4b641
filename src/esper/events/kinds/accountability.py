"""Statements of checks and people about runs: results of compliance checks, sign-offs, holds and their release, removal,
acknowledged alerts."""

from typing import Annotated, Literal

from pydantic import Field

from esper.events import topics
from esper.events.envelope import RunId
from esper.events.fields import Count, Digest, Event, Positive


class ComplianceChecked(Event, kind="esper.compliance.checked.v1", topic=topics.TRAIL):
    """A check was made of a run: FAIL where it found violations, INCONCLUSIVE where there was nothing to check, else PASS."""

    about: RunId
    """The run that was checked."""
    check: str
    version: Positive
    digest: Digest
    """Of the check's text."""
    result: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    population: Count
    """What was checked, in the check's own units."""
    violations: Count
    up_to: Count
    """The last moment of the run that was checked."""
    by: str | None
    """The person who asked, as given; null: not said."""


class RunSignedOff(Event, kind="esper.run.signed-off.v1", topic=topics.TRAIL):
    """A person accepted the result of a run that has ended."""

    about: RunId
    by: str
    role: str
    """In which the person accepted it."""
    note: str
    """What was accepted, and on what grounds."""
    model_digest: Digest | None
    """Of the model that was accepted, as RunFinished has it; null: the run failed, and its failure was accepted."""
    up_to: Count
    """The moment of the run's end."""


class RunHeld(Event, kind="esper.run.held.v1", topic=topics.TRAIL):
    """A run must be kept: nothing of it may be deleted. Each hold is for itself, until its day is over or all are released."""

    about: RunId
    until: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] | None
    """The last day of the hold, in UTC; null: until it is released."""
    why: str
    by: str


class HoldReleased(Event, kind="esper.hold.released.v1", topic=topics.TRAIL):
    """Every hold of a run that was in force is released."""

    about: RunId
    why: str
    by: str


class RunPruned(Event, kind="esper.run.pruned.v1", topic=topics.TRAIL):
    """A run is removed from its log, with its checkpoints and all that was derived from it; its files may be gone from here on."""

    about: RunId
    task: str | None
    """That it trained; null: it was no training, or had not begun."""
    standing: str
    """How it stood, as lists of runs have it."""
    ended: str
    """The time of its last record, in UTC."""
    records: Count
    size_bytes: Count
    """Of all of its files."""
    why: str
    """The limit that it was older than, as given."""
    by: str | None
    """The person who asked, as given; null: not said."""


class AlertAcknowledged(Event, kind="esper.alert.acknowledged.v1", topic=topics.TRAIL):
    """A person has taken over an alert that fires: until then its handlers are not told of it, and afterwards again if it still fires."""

    about: RunId
    """The run whose alert it is."""
    fingerprint: Digest
    """Of the alert."""
    rule: str
    since: str
    """The time at which the alert's condition began to hold."""
    until: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    """The end of the acknowledgement, in UTC."""
    note: str
    by: str


TrailEvent = ComplianceChecked | RunSignedOff | RunHeld | HoldReleased | RunPruned | AlertAcknowledged
"""What stands in the trail, but for the ends of its streams."""
