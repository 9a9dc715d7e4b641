"""Alerts as lines of text, on standard error or at the end of a file."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from esper.events.envelope import written_time
from esper.observer.delivery.exchange import Answer, Send
from esper.observer.delivery.handlers.secret import readable
from esper.observer.delivery.notices import Notice

LONGEST_LINE = 1000


def line(notice: Notice, now: datetime) -> str:
    """One line: when it is said, what it is, and where to look; the key stands last. Foreign text cannot break it or move the cursor."""
    status = "firing" if notice.firing else "resolved"
    where = notice.link.url or notice.link.command
    said = f"{written_time(now)} {notice.severity} {status} {notice.name}: {notice.summary}"
    return f"{readable(said, limit=LONGEST_LINE)} | {readable(where)} | {notice.key}"


def lines_to(path: Path | None) -> Send:
    """A sender that writes a line a notice: to `path`, opened anew each time so that it may be rotated, else to standard error."""

    def send(notices: Sequence[Notice], now: datetime) -> Answer:
        text = "".join(f"{line(notice, now)}\n" for notice in notices)
        try:
            if path is None:
                sys.stderr.write(text)
                sys.stderr.flush()
            else:
                with path.open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            return Answer(delivered=False, error=f"cannot write to {path or 'standard error'}: {error.strerror}")
        return Answer(delivered=True)

    return send
