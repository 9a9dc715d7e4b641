"""Who sends nothing, sends slowly or takes nothing holds no connection for ever, and shuts nobody out."""

import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from esper.events.envelope import RunId
from esper.nissa.backend import Tails
from esper.nissa.service_settings import NissaSettings
from esper.oona.heads import Draft
from esper.oona.writer import append_drafts
from tests.nissa.server import Client, serving
from tests.oona.samples import command, ticking

NUMBERS = itertools.count(1)
TAIL = "GET /api/v1/runs/{}/tail?cursor=1.0 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that has room for eight connections and two tails, and little patience."""
    settings = NissaSettings(connections=8, request_s=0.3, unread_s=0.3, tails=2)
    with serving(tmp_path_factory.mktemp("connections"), settings) as client:
        yield client


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Client]:
    """A server with room for four connections that waits for a client as long as it likes."""
    with serving(tmp_path, NissaSettings(connections=4, request_s=3000, unread_s=3000)) as client:
        yield client


def connected(client: Client, text: str = "") -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", client.port), timeout=20)
    opened.sendall(text.encode())
    return opened


def rest(opened: socket.socket) -> bytes:
    """What comes until the server ends the connection."""
    found = b""
    with suppress(ConnectionResetError), opened:
        while part := opened.recv(65536):
            found += part
    return found


def run_with(client: Client, records: int, text: str = "") -> RunId:
    """A run with that many records of about the length of `text`."""
    run, clock = RunId(f"01900000-0000-7000-8000-{next(NUMBERS):012}"), ticking()
    with client.service.directory.create(run) as log:
        events = [command(moment).model_copy(update={"blueprint": text}) for moment in range(1, records + 1)]
        drafts = [Draft(event, event.TOPIC, moment, 1, clock(), 0, 0, None, None) for moment, event in enumerate(events, 1)]
        append_drafts(log, drafts)
    return run


def tails_of(client: Client) -> Tails:
    tails = client.service.app.state.backend.tails
    assert isinstance(tails, Tails)
    return tails


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.01)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GET /healthz HTTP/1.1\r\nHost: loc",
        "POST /api/v1/metrics/custom HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    ],
)
def test_a_request_that_does_not_come_ends_its_connection(client: Client, text: str) -> None:
    assert b"HTTP/1.1 2" not in rest(connected(client, text))


def test_idle_connections_make_room_the_oldest_first(patient: Client) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(connected(patient)) for _ in range(40)]
        assert patient.get("/healthz").status == 200
        assert all(rest(one) == b"" for one in idle[:36])


def test_a_connection_that_is_busy_makes_no_room_and_one_more_is_told_so(patient: Client) -> None:
    run = run_with(patient, 3)
    with ExitStack() as stack:
        tails = [stack.enter_context(connected(patient, TAIL.format(run))) for _ in range(4)]
        assert all(b"200 OK" in one.recv(1000) for one in tails)
        answer = rest(connected(patient))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"urn:esper:problem:too-many-connections" in answer
        assert all(one.send(b"") == 0 for one in tails)


def test_a_tail_that_takes_nothing_is_cut_and_its_place_is_free_again(client: Client) -> None:
    run = run_with(client, 3000, "x" * 4000)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", client.port))
        deaf.sendall(TAIL.format(run).encode())
        until(lambda: tails_of(client)._open == 1)
        until(lambda: tails_of(client)._open == 0)


def test_of_a_burst_of_tails_as_many_as_may_be_are_let_in(client: Client) -> None:
    run = run_with(client, 3)
    with ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        opened = [stack.enter_context(connected(client)) for _ in range(6)]

        def first_line(one: socket.socket) -> bytes:
            one.sendall(TAIL.format(run).encode())
            return one.recv(12)

        assert sorted(pool.map(first_line, opened)) == [b"HTTP/1.1 200"] * 2 + [b"HTTP/1.1 503"] * 4
    until(lambda: tails_of(client)._open == 0)


def test_a_tail_of_an_unknown_run_takes_no_place(client: Client) -> None:
    for _ in range(3):
        assert client.get("/api/v1/runs/nothing-of-the-kind/tail").status == 404
    assert tails_of(client)._open == 0


@pytest.mark.parametrize(("hard", "connections"), [(4096, 512), (1024, 384), (200, 16)])
def test_descriptors_are_kept_aside(hard: int, connections: int) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, {hard}));"
        "from esper.nissa.connections import connections_within; print(connections_within(512))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(found.stdout) == connections
