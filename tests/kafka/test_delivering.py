"""Delivery of alerts from Kafka: by members as users start them, which share the partitions; and by one member, step by step."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from esper.events.codec import decode
from esper.events.envelope import EventId, Record, RunId
from esper.events.kinds.observability import AlertNotified, AlertSuppressed, RunHeardAgain, RunWentSilent
from esper.events.topics import ALERTS
from esper.kafka.clients import outgoing, producing
from esper.kafka.delivering import AlertDelivery
from esper.kafka.transactions import transact
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import run_of
from tests.observer.delivery.made import BEGIN, alert, derived, notified, outcome_record
from tests.observer.delivery.servers import Inbox, http_server
from tests.trails import acknowledged
from tests.waiting import until

pytestmark = pytest.mark.kafka

_WITHIN_S = 120.0
RUNS = [run_of(number) for number in range(4)]
WEBHOOK = '[[handlers]]\nkind = "webhook"\nname = "{name}"\nurl = "http://127.0.0.1:{port}"\nburst = 1000\n'


def now_s() -> float:
    """Seconds since the beginning of the made alerts."""
    return (datetime.now(UTC) - BEGIN).total_seconds()


def alerts(numbers: Iterable[int], *, age_s: float = 0.0) -> list[Record]:
    """Firing alerts over several runs, each with its resolution."""
    return [
        alert(number, firing=firing, at_s=now_s() - age_s, run=RUNS[number % len(RUNS)]).record
        for number in numbers
        for firing in (True, False)
    ]


def publish(cluster: Cluster, records: Sequence[Record]) -> None:
    """Writes `records` as a worker does."""

    async def write() -> None:
        async with producing(cluster.settings, "ledger-test") as producer:
            await transact(producer, cluster.settings, [outgoing(cluster.settings, record) for record in records])

    asyncio.run(write())


def keys(records: Iterable[Record]) -> set[tuple[str, str]]:
    """Key and status of each alert, as a webhook is given them."""
    found = set()
    for record in records:
        event: Any = decode(record)
        found.add((f"{record.run}/{event.fingerprint}/{event.since}", "firing" if "firing" in record.type else "resolved"))
    return found


def received(inbox: Inbox) -> list[tuple[str, str]]:
    """Key and status of each request."""
    bodies = [json.loads(got.body) for got in list(inbox.got)]
    return [(body["groupKey"], body["status"]) for body in bodies]


def outcomes(cluster: Cluster) -> list[AlertNotified | AlertSuppressed]:
    """The outcomes in the topic."""
    events = [decode(record) for record in asyncio.run(cluster.records(ALERTS))]
    return [event for event in events if isinstance(event, AlertNotified | AlertSuppressed)]


class Member:
    """A process of `esper deliver` with a folder of its own."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process, self.folder = process, folder

    def state(self) -> dict[str, Any]:  # Any: JSON.
        """Its state, empty before it writes one."""
        path = self.folder / "delivery.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def owns(self, count: int) -> bool:
        """True where it delivers the alerts of `count` partitions."""
        state = self.state()
        return bool(state.get("ready")) and len(state["partitions"]) == count


@contextmanager
def member(cluster: Cluster, folder: Path, handlers: str, *more: str) -> Iterator[Member]:
    """A member whose settings stand in `folder`; killed at the end where it still runs."""
    settings = cluster.settings
    folder.mkdir()
    (folder / "kafka.toml").write_text(f'prefix = "{settings.prefix}"\npartitions = {settings.partitions}\nreplication = 1\n')
    (folder / "delivery.toml").write_text(handlers)
    words = ["deliver", "--log", f"kafka://{settings.bootstrap}", "--mirror", os.fspath(folder), *more]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "esper.cli", *words],
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield Member(process, folder)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_two_members_share_the_alerts_and_one_takes_over_when_the_other_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    first_alerts, second_alerts, last_alerts = alerts(range(10)), alerts(range(10, 60)), alerts(range(60, 70))
    with http_server() as inbox:
        handlers = WEBHOOK.format(name="team", port=inbox.port)
        with member(cluster, tmp_path / "first", handlers) as first:
            publish(cluster, first_alerts)
            until(lambda: set(received(inbox)) == keys(first_alerts))
            with member(cluster, tmp_path / "second", handlers) as second:
                until(lambda: first.owns(1) and second.owns(1))
                assert len(received(inbox)) == len(first_alerts)
                publish(cluster, second_alerts)
                inbox.wait_for(len(first_alerts) + 20)
                first.process.kill()
                publish(cluster, last_alerts)
                every = first_alerts + second_alerts + last_alerts
                until(lambda: set(received(inbox)) == keys(every))
                until(lambda: second.owns(2) and second.state()["outstanding"] == 0)
                second.process.terminate()
                assert second.process.wait(30) == 0
    got = received(inbox)
    assert len(got) <= len(every) + 1
    for key, status in got:
        assert status == "firing" or got.index((key, "firing")) < got.index((key, "resolved"))
    found = outcomes(cluster)
    assert {event.outcome for event in found if isinstance(event, AlertNotified)} == {"delivered"}
    assert Counter(event.alert for event in found) == Counter(record.id for record in every)


def test_old_alerts_are_suppressed_by_a_member_that_starts_late(cluster: Cluster, tmp_path: Path) -> None:
    old, young = alerts([1], age_s=1200.0), alerts([2])
    publish(cluster, old + young)
    with http_server() as inbox, member(cluster, tmp_path / "late", WEBHOOK.format(name="team", port=inbox.port)):
        until(lambda: len(outcomes(cluster)) == 4)
    assert set(received(inbox)) == keys(young)
    why = {event.alert: event.why for event in outcomes(cluster) if isinstance(event, AlertSuppressed)}
    assert why == {old[0].id: "stale", old[1].id: "not_delivered"}


def test_a_handler_that_is_refused_delays_no_other_and_both_outcomes_are_written(cluster: Cluster, tmp_path: Path) -> None:
    made = alerts([1])[:1]
    with http_server() as inbox, http_server(inbox=Inbox(status=400)) as refusing:
        handlers = WEBHOOK.format(name="team", port=inbox.port) + WEBHOOK.format(name="broken", port=refusing.port)
        # As Nissa starts it: of such a child nobody reads standard output.
        with member(cluster, tmp_path / "one", handlers, "--parent", str(os.getpid())) as one:
            publish(cluster, made)
            until(lambda: len(outcomes(cluster)) == 2)
            one.process.terminate()
            said = one.process.communicate(timeout=60)[1]
    found = {event.handler: event.outcome for event in outcomes(cluster) if isinstance(event, AlertNotified)}
    assert found == {"team": "delivered", "broken": "failed"}
    assert "handler broken did not deliver loss-not-finite (firing): expected status 2xx from" in said


class Heard:
    """A deliverer that sends nothing: what it was given."""

    def __init__(self, lives: Callable[[RunId], bool]) -> None:
        self.offered: list[EventId] = []
        self.known: list[EventId] = []
        self.held: list[EventId] = []
        self.lives, self.started, self.closed = lives, False, False

    def offer(self, *alerts: Record) -> None:
        self.offered += [alert.id for alert in alerts]

    def hold(self, alert: Record) -> None:
        self.held.append(alert.id)

    def settled(self, outcome: Record) -> None:
        event = decode(outcome)
        assert isinstance(event, AlertNotified)
        self.known.append(event.alert)

    def start(self) -> None:
        self.started = True

    def outstanding(self) -> int:
        return 0

    def close(self, _timeout_s: float) -> None:
        self.closed = True


@asynccontextmanager
async def delivery(cluster: Cluster, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> AsyncIterator[list[Heard]]:
    """A member that runs by the clock `now`, and the deliverers that it made, one after the other."""
    heard: list[Heard] = []

    def make(_write: object, lives: Callable[[RunId], bool]) -> Heard:
        heard.append(Heard(lives))
        return heard[-1]

    one, stop = AlertDelivery(cluster.settings, make, print, now=now), asyncio.Event()
    running = asyncio.create_task(one.run(stop))
    try:
        yield heard
    finally:
        stop.set()
        await running


async def once(holds: Callable[[], object]) -> None:
    """Returns when `holds`."""
    async with asyncio.timeout(_WITHIN_S):
        while not holds():
            await asyncio.sleep(0.05)


def test_an_outcome_behind_the_open_transaction_of_a_dead_worker_is_waited_for(cluster: Cluster) -> None:
    firing, other = alerts([0])[0], alerts([4])[0]
    outcome = outcome_record(firing.run, notified(alert(0, run=firing.run)))._replace(id=EventId("f" * 32))
    publish(cluster, [firing])

    async def main() -> None:
        async with producing(cluster.settings, "ledger-0") as dead, producing(cluster.settings, "delivery-test") as former:
            await dead.begin_transaction()
            hidden = outgoing(cluster.settings, other)
            await (await dead.send(hidden.topic, hidden.value, key=hidden.key, headers=hidden.headers))
            await transact(former, cluster.settings, [outgoing(cluster.settings, outcome)])
            async with delivery(cluster) as heard:
                await once(lambda: heard and heard[0].offered == [firing.id])
                assert not heard[0].started
                async with producing(cluster.settings, "ledger-0"):  # The worker that takes over.
                    await once(lambda: heard[0].started)
                assert heard[0].known == [firing.id]
                assert heard[0].offered == [firing.id]

    asyncio.run(main())


def test_the_resolution_of_an_alert_older_than_the_window_finds_its_firing(cluster: Cluster) -> None:
    firing, resolved = alerts([0])
    publish(cluster, [firing, outcome_record(firing.run, notified(alert(0, run=firing.run)))])

    async def main() -> None:
        async with delivery(cluster, now=lambda: datetime.now(UTC) + timedelta(days=40)) as heard:
            await once(lambda: heard and heard[0].started)
            assert heard[0].offered == []
            await asyncio.to_thread(publish, cluster, [resolved])
            await once(lambda: len(heard) == 2 and heard[1].started)
        assert heard[0].closed
        assert heard[1].offered == [firing.id, resolved.id]
        assert heard[1].known == [firing.id]

    asyncio.run(main())


def test_an_alert_that_somebody_has_taken_over_is_told_when_that_is_over_and_it_still_fires(cluster: Cluster) -> None:
    first, other, late = alerts([0])[0], alerts([1])[0], alerts([2])[0]
    clock = [datetime.now(UTC)]
    soon, never = (f"{clock[0] + after:%Y-%m-%dT%H:%M:%SZ}" for after in (timedelta(hours=1), timedelta(days=1)))
    publish(cluster, [first, other, taken_over(first, soon, 1), taken_over(late, never, 2)])

    async def main() -> None:
        async with delivery(cluster, now=lambda: clock[0]) as heard:
            await once(lambda: heard and heard[0].started)
            assert (heard[0].held, heard[0].offered) == ([first.id], [other.id])
            await asyncio.to_thread(publish, cluster, [late])
            await once(lambda: heard[0].held == [first.id, late.id])
            clock[0] += timedelta(hours=2)
            await once(lambda: len(heard[0].offered) == 2)
            assert heard[0].offered[1] != first.id

    asyncio.run(main())


def taken_over(firing: Record, until: str, number: int) -> Record:
    """The record of a person's word about an alert, in the trail of a machine."""
    event: Any = decode(firing)
    said = acknowledged(event.fingerprint, until, about=firing.run, rule=event.rule)
    return derived(EventId(f"{number:032x}"), RunId("audit:one:2026-03-01"), said)


def test_a_run_is_dead_where_a_worker_recorded_its_silence(cluster: Cluster) -> None:
    dead, again = RUNS[0], RUNS[1]
    silent = RunWentSilent(state="dead", silent_s=60.0)
    events = ((dead, silent), (again, silent), (again, RunHeardAgain(silent_s=90.0)))
    publish(cluster, [derived(EventId(f"{number:032x}"), run, event) for number, (run, event) in enumerate(events)])

    async def main() -> None:
        async with delivery(cluster) as heard:
            await once(lambda: heard and heard[0].started)
            assert (heard[0].lives(dead), heard[0].lives(again), heard[0].lives(RUNS[2])) == (False, True, True)

    asyncio.run(main())
