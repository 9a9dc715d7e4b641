"""Tries every handler out: one message through each, and what came of it. Nothing of it is in any log."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from esper.observer.delivery.deliverer import attempt
from esper.observer.delivery.exchange import Answer, Handler
from esper.observer.delivery.notices import trial_notice


class Trial(NamedTuple):
    """What came of one handler's message, and how long it took."""

    handler: str
    answer: Answer
    took_s: float


def try_out(handlers: Sequence[Handler], now: Callable[[], datetime]) -> Iterator[Trial]:
    """One attempt for each handler, in order, whatever its severity and limits: each is given as soon as it has been made.

    Blocks up to a handler's time limits. To Alertmanager it is an alert that ends by itself after a few minutes.
    """
    for handler in handlers:
        begun_s = time.monotonic()
        answer = attempt(handler, (trial_notice(handler.name, now()),), now())
        yield Trial(handler.name, answer, time.monotonic() - begun_s)
