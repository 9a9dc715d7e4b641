"""What passes between an outbox, which decides, and the thread that does what it says: steps, messages, answers, outcomes."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from esper.events.envelope import RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.limits import Limits
from esper.observer.delivery.notices import Alert, HeldBack, Notice


class Now(NamedTuple):
    """The machine's time, for the age of alerts, and seconds of a clock that never goes back, for waiting."""

    time: datetime
    steady_s: float


class Answer(NamedTuple):
    """What came of an attempt. Not delivered: is trying again useless (`final`), and how long does the receiver ask to be left alone?"""

    delivered: bool
    error: str | None = None
    final: bool = False
    asked_s: float | None = None


class Send(Protocol):
    """Makes one attempt to hand over notices at a time, and says what came of it.

    May block up to its handler's own time limits. What cannot be delivered is an Answer; an exception counts as a final failure.
    """

    def __call__(self, notices: Sequence[Notice], now: datetime) -> Answer: ...


class Handler(NamedTuple):
    """One way to reach people: a name that is its own, what it may do, and how it sends."""

    name: str
    limits: Limits
    send: Send


class SendAlert(NamedTuple):
    """Send this alert."""

    alert: Alert


class SendHeldBack(NamedTuple):
    """Send one message about what was held back."""

    held: HeldBack


class SendAgain(NamedTuple):
    """Say once more that these fire; nobody counts it as new."""

    alerts: tuple[Alert, ...]


Sending = SendAlert | SendHeldBack | SendAgain


class Outcome(NamedTuple):
    """What has to be recorded, and in which run."""

    run: RunId
    event: AlertNotified | AlertSuppressed


class Step(NamedTuple):
    """What to do now: record outcomes, send something; and when to ask again (None: when something was offered)."""

    outcomes: tuple[Outcome, ...]
    sending: Sending | None
    until_s: float | None
