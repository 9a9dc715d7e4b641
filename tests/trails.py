"""What people and checks say about a run, where a test says only what matters to it."""

from esper.events.envelope import Record, RunId
from esper.events.kinds.accountability import AlertAcknowledged, ComplianceChecked, HoldReleased, RunHeld, RunSignedOff
from esper.history.trail import _said
from esper.oona.directory import Directory
from tests.synthetic import RUN


def held(about: RunId = RUN, until: str | None = None, why: str = "an inquiry") -> RunHeld:
    """A hold."""
    return RunHeld(about=about, until=until, why=why, by="Ada")


def released(about: RunId = RUN) -> HoldReleased:
    """The release of a run's holds."""
    return HoldReleased(about=about, why="the inquiry has ended", by="Ada")


def signed_off(about: RunId = RUN, note: str = "good enough") -> RunSignedOff:
    """A sign-off of a run that finished."""
    return RunSignedOff(about=about, by="Grace", role="model owner", note=note, model_digest="ab" * 32, up_to=233)


def acknowledged(fingerprint: str, until: str, about: RunId = RUN, rule: str = "loss-not-finite") -> AlertAcknowledged:
    """An alert that somebody took over."""
    return AlertAcknowledged(
        about=about, fingerprint=fingerprint, rule=rule, since="2026-03-01T12:00:04.000000Z", until=until, note="on it", by="Ada"
    )


def checked(about: RunId = RUN) -> ComplianceChecked:
    """A check that found nothing wrong."""
    return ComplianceChecked(
        about=about, check="log.chain", version=1, digest="cd" * 32, result="PASS", population=233, violations=0, up_to=233, by=None
    )


def sign_offs_of(directory: Directory, run: RunId) -> tuple[tuple[Record, RunSignedOff], ...]:
    """Every sign-off of `run`, oldest first."""
    return tuple((record, event) for record, event in _said(directory) if isinstance(event, RunSignedOff) and event.about == run)
