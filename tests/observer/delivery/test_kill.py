"""kill -9 at any message: the receiver has every alert, and what came twice has one key."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from esper.events.kinds.observability import AlertNotified
from tests.observer.delivery.child import alerts, outcomes
from tests.observer.delivery.servers import http_server

COUNT, KILLS = 200, 8


@pytest.mark.whole
def test_killed_at_any_message_every_alert_arrives_and_has_one_outcome(tmp_path: Path) -> None:
    file = tmp_path / "outcomes"
    file.touch()
    chance = random.Random(20260301)
    with http_server() as inbox:
        arguments = [sys.executable, "-m", "tests.observer.delivery.child", str(file), str(inbox.port), str(COUNT)]
        for _ in range(KILLS):
            before = len(inbox.got)
            process = subprocess.Popen(arguments)
            inbox.wait_for(before + chance.randrange(1, 20))
            process.kill()
            process.wait()
        assert len(inbox.got) < len(alerts(COUNT))
        subprocess.run(arguments, check=True)
    got = [(body["groupKey"], body["status"]) for body in (json.loads(request.body) for request in inbox.got)]
    expected = {
        (f"{made.record.run}/{made.event.fingerprint}/{made.event.since}", "firing" if made.firing else "resolved")
        for made in alerts(COUNT)
    }
    assert set(got) == expected
    assert len(got) <= len(expected) + KILLS
    for key, status in got:
        assert status == "firing" or got.index((key, "firing")) < got.index((key, "resolved"))
    recorded = Counter(event.alert for event in outcomes(file) if isinstance(event, AlertNotified) and event.outcome == "delivered")
    assert recorded == Counter(made.record.id for made in alerts(COUNT))
