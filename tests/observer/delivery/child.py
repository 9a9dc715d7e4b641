"""A process to be killed: it delivers alerts to a webhook, and keeps outcomes in a file as an observer keeps them beside a run.

python -m tests.observer.delivery.child OUTCOMES PORT COUNT
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from esper.events.codec import decode_payload, encode
from esper.events.kinds.observability import AlertNotified, AlertSuppressed
from esper.observer.delivery.deliverer import Deliverer
from esper.observer.delivery.delivery_file import parse_delivery
from esper.observer.delivery.handlers import build_handlers
from esper.observer.delivery.notices import AlertRecord
from esper.observer.delivery.outbox import AlertOutcome
from tests.observer.delivery.made import BEGIN, LINK, RUN, alert, outcome_record

_FILE = '[[handlers]]\nkind = "webhook"\nname = "team"\nurl = "http://127.0.0.1:{port}"\nburst = 1000\n'


def alerts(count: int) -> list[AlertRecord]:
    """What is delivered: so many alerts, and the end of every other one right after it."""
    found = []
    for number in range(count):
        found.append(alert(number))
        found += [alert(number, firing=False)] if number % 2 else []
    return found


def outcomes(file: Path) -> list[AlertNotified | AlertSuppressed]:
    """What the file says; a last line that was cut says nothing."""
    found = []
    for line in file.read_bytes().split(b"\n")[:-1]:
        event = decode_payload(AlertNotified.KIND if b'"attempts"' in line else AlertSuppressed.KIND, line)
        assert isinstance(event, (AlertNotified, AlertSuppressed))
        found.append(event)
    return found


def main(file: Path, port: int, count: int) -> None:
    """Delivers until nothing is left to deliver."""
    settled = outcomes(file)
    whole = b"".join(encode(event) + b"\n" for event in settled)
    lock = threading.Lock()
    with file.open("r+b", buffering=0) as opened:
        opened.truncate(len(whole))
        opened.seek(len(whole))

        def record(outcomes: Sequence[AlertOutcome]) -> None:
            for alert, event in outcomes:
                assert alert.run == RUN
                with lock:
                    opened.write(encode(event) + b"\n")

        handlers = build_handlers(parse_delivery(_FILE.format(port=port), "delivery.toml"))
        deliverer = Deliverer(handlers, record=record, now=lambda: BEGIN, link_to=LINK, lives=lambda _: True)
        for number, event in enumerate(settled):
            deliverer.settled(outcome_record(RUN, event, number))
        for made in alerts(count):
            deliverer.offer(made.record)
        deliverer.start()
        deliverer.close(60.0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
