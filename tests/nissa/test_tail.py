"""The live tail: server-sent events over HTTP, resumed by their ids, with a gap where too much was missed."""

import http.client
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from esper.events.envelope import RunId
from esper.nissa.service_settings import NissaSettings
from esper.oona.heads import Draft
from esper.oona.observed import Observed
from esper.oona.run_log import RunLog
from esper.oona.writer import append_drafts
from tests.nissa.samples import anomaly
from tests.nissa.server import Client, serving
from tests.oona.samples import pruned, ticking

CLOCK = ticking()
NUMBERS = itertools.count(1)


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    id: str
    data: dict[str, object]

    @property
    def moment(self) -> object:
        return self.data["moment"]


class Tail:
    """Reads a tail as it comes."""

    def __init__(self, client: Client, path: str, **headers: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        self.connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        self.response = self.connection.getresponse()

    def events(self) -> Iterator[Event]:
        """The events, for ever; comments are passed over."""
        fields: dict[str, str] = {}
        while line := self.response.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if line != "\n":
                fields[name] = value
            elif "event" in fields or "id" in fields:
                yield Event(fields.get("event", ""), fields.get("id", ""), json.loads(fields.get("data", "{}")))
                fields = {}

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def append(log: RunLog, count: int) -> None:
    first = log.heads().moment + 1
    drafts = [Draft(pruned(moment), pruned(moment).TOPIC, moment, 1, CLOCK(), 0, 0, None, None) for moment in range(first, first + count)]
    append_drafts(log, drafts)


class Live(NamedTuple):
    """A run that is being written, and a server over it."""

    run: RunId
    log: RunLog
    client: Client
    folder: Path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One server for all tests; each has a run of its own in its log."""
    path = tmp_path_factory.mktemp("tails")
    with serving(path, NissaSettings(tails=2, tail_records=2)) as client:
        yield client


@pytest.fixture
def live(client: Client) -> Iterator[Live]:
    directory = client.service.directory
    run = RunId(f"01900000-0000-7000-8000-{next(NUMBERS):012}")
    with directory.create(run) as log:
        append(log, 3)
        yield Live(run, log, client, directory.path / run)


def opened(live: Live, query: str = "", **headers: str) -> tuple[Tail, Iterator[Event]]:
    """A tail of the run, past the event that says where it begins."""
    path = f"/api/v1/runs/{live.run}/tail{query}"
    tail = Tail(live.client, path, **headers)
    while tail.response.status == 503:  # The server has not seen yet that an earlier test's tails are closed.
        tail.close()
        tail = Tail(live.client, path, **headers)
    found = tail.events()
    assert next(found).name == ""
    return tail, found


def test_a_tail_brings_what_comes_after_it_was_opened(live: Live) -> None:
    tail, found = opened(live)
    append(live.log, 2)
    assert [next(found).moment, next(found).moment] == [4, 5]
    append(live.log, 1)
    assert next(found).moment == 6
    tail.close()


def test_a_tail_goes_on_after_the_last_id_without_loss_or_repetition(live: Live) -> None:
    tail, found = opened(live)
    append(live.log, 1)
    last = next(found)
    tail.close()
    append(live.log, 2)
    tail, found = opened(live, last_event_id=last.id)
    assert [next(found).moment for _ in range(2)] == [5, 6]
    tail.close()


def test_a_tail_begins_at_the_cursor_that_it_is_given(live: Live) -> None:
    tail, found = opened(live, "?cursor=1.0")
    assert [next(found).moment for _ in range(2)] == [2, 3]
    tail.close()


def test_who_missed_too_much_is_told_what_and_goes_on_nearer_to_the_end(live: Live) -> None:
    append(live.log, 7)
    tail, found = opened(live, "?cursor=1.0")
    gap, first = next(found), next(found)
    assert (gap.name, gap.data, first.moment) == ("gap", {"from": "1.0", "to": "8.0", "missed": 7}, 9)
    assert gap.id == "8.0"
    tail.close()


def test_a_tail_of_one_topic_passes_over_the_others(live: Live) -> None:
    tail, found = opened(live, "?cursor=1.0&topic=observability.anomalies")
    with Observed(live.folder, live.run) as observed:
        observed.save([anomaly(live.run)])
    assert next(found).data["topic"] == "observability.anomalies"
    tail.close()


def test_what_an_observer_derives_is_in_the_tail_of_all(live: Live) -> None:
    tail, found = opened(live)
    with Observed(live.folder, live.run) as observed:
        observed.save([anomaly(live.run)])
    assert next(found).data["type"] == anomaly(live.run).type
    tail.close()


def test_more_tails_than_may_be_are_refused(live: Live) -> None:
    tails = [opened(live)[0] for _ in range(2)]
    answer = live.client.get(f"/api/v1/runs/{live.run}/tail")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    for tail in tails:
        tail.close()


def test_a_tail_of_an_unknown_run_is_not_found(live: Live) -> None:
    assert live.client.get("/api/v1/runs/nothing-of-the-kind/tail").status == 404


@pytest.mark.parametrize("query", ["?cursor=x", "?topic=no.such.topic"])
def test_a_tail_of_nothing_that_there_is_is_refused(live: Live, query: str) -> None:
    assert live.client.get(f"/api/v1/runs/{live.run}/tail{query}").status == 422
