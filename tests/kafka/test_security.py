"""A cluster with users, rights and certificates: what is refused, in which words and how soon, and the least that each process needs."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from local_kafka import can_run

from esper.cli.main import main
from esper.errors import LogError
from esper.events.topics import DEAD_LETTER_SUFFIX, STEPS, TOPICS
from esper.kafka.clients import producing
from esper.kafka.cluster import KafkaSettings
from esper.kafka.cluster_topics import BRIDGE, LEAD, WORKER, Needs, check_needs, check_topics, create_topics
from esper.kafka.copying.mirroring import Mirror
from esper.kafka.copying.shipping import Bridge
from esper.kafka.ledgers.ledger import Ledger, LedgerSettings
from esper.kafka.ledgers.owned_ledgers import FAILED
from esper.kafka.probing import WITHIN_S, RefusedError, probing
from esper.kafka.transactions import transact
from esper.oona.directory import Directory
from streams.app import build_app
from tests.kafka.conftest import do_without
from tests.kafka.made_cluster import Cluster
from tests.kafka.recorded import log_of, run_of
from tests.kafka.secured_kafka import PASSWORD, SecuredKafka
from tests.kafka.test_worker import started, wait_for
from tests.synthetic import write_run
from tests.waiting import until

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]

_ENDS_S = 60.0
PREFIX = "lab."
BASE = KafkaSettings(bootstrap="filled:1", prefix=PREFIX, partitions=2, replication=1)


@pytest.fixture(scope="module")
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A broker with users, Esper's topics on it, and the rights of `bridge`, `worker` and `reader`."""
    if not can_run():
        do_without(request.config)
    made = SecuredKafka.make(tmp_path_factory.mktemp("secured"))
    try:
        made.node.start()
        asyncio.run(create_topics(admin_of(made)))
        for user, needs in (("bridge", BRIDGE), ("worker", WORKER), ("reader", READER)):
            for names, operation in ((needs.writes, "WRITE"), (needs.reads, "READ")):
                if names:
                    made.change(user, "TOPIC", map(BASE.topic, names), [operation])
        for user, start in (("bridge", "bridge-*"), ("worker", "ledger-*"), ("nobody", "bridge-*")):
            made.change(user, "TRANSACTIONAL_ID", [BASE.topic(start)], ["WRITE"])
        made.change("worker", "GROUP", [BASE.topic("worker")], ["READ"])
        made.change("novice", "TOPIC", map(BASE.topic, BRIDGE.writes), ["WRITE"])
        until(lambda: not any(refusal(made.settings(user, BASE), needs) for user, needs in NEEDS.items()))
        yield made
    finally:
        made.node.kill()


READER = Needs(frozenset(TOPICS), frozenset())
NEEDS = {"bridge": BRIDGE, "worker": WORKER, "reader": READER}


def admin_of(secured: SecuredKafka) -> KafkaSettings:
    """The settings of the administrator."""
    return BASE.model_copy(update={"bootstrap": secured.node.bootstrap})


def refusal(settings: KafkaSettings, needs: Needs) -> str:
    """The words in which `settings` are refused; empty where they are not."""
    try:
        asyncio.run(check_needs(settings, needs))
    except LogError as error:
        return str(error)
    return ""


def connect(settings: KafkaSettings) -> float:
    """The seconds that a probe took."""

    async def probe() -> None:
        async with probing(settings) as asked:
            await asked.topics([settings.topic(STEPS)])

    began = time.monotonic()
    try:
        asyncio.run(probe())
    finally:
        assert time.monotonic() - began < WITHIN_S + 5
    return time.monotonic() - began


CLOSED = "closed connection: the listener may ask for TLS or a password; security is 'plaintext'"
REFUSED: dict[str, tuple[Callable[[SecuredKafka], dict[str, Any]], str]] = {
    "a wrong password": (
        lambda made: made.settings("bridge", BASE, password_file=str(made.folder / "wrong")).model_dump(),
        "expected user 'bridge' to be let in, got a refusal: Authentication failed .* invalid credentials",
    ),
    "an unknown user": (lambda made: made.settings("stranger", BASE).model_dump(), "expected user 'stranger' to be let in"),
    "another mechanism": (
        lambda made: made.settings("bridge", BASE, mechanism="SCRAM-SHA-512").model_dump(),
        "expected a broker that takes SCRAM-SHA-512, got one that does not",
    ),
    "no password": (
        lambda made: {"bootstrap": made.sasl},
        "closed connection: the listener may ask for TLS or a password; security is 'plaintext'",
    ),
    "a password nobody asks for": (
        lambda made: made.settings("bridge", BASE, bootstrap=made.node.bootstrap).model_dump(),
        "expected a listener that asks for a password, got one that does not; security is 'sasl_plaintext'",
    ),
    "no TLS where it is needed": (
        lambda made: {"bootstrap": made.tls},
        "the listener may ask for TLS or a password; security is 'plaintext'",
    ),
    "TLS where there is none": (
        lambda made: {"bootstrap": made.node.bootstrap, "security": "ssl"},
        "expected a listener with TLS, got one without, .*; security is 'ssl'",
    ),
    "a certificate of strangers": (
        lambda made: {"bootstrap": made.tls, "security": "ssl"},
        "expected a certificate that ca_file vouches for, got another: unable to get local issuer certificate",
    ),
    "a certificate of another name": (
        lambda made: {"bootstrap": made.tls.replace("127.0.0.1", "localhost"), "security": "ssl", "ca_file": str(made.folder / "ca.pem")},
        "expected a certificate that ca_file vouches for, got another: .*localhost",
    ),
    "an address that brokers give out": (
        lambda made: made.settings(
            "bridge", BASE, bootstrap=made.lost, security="sasl_ssl", ca_file=str(made.folder / "ca.pem")
        ).model_dump(),
        "give out addresses that cannot be reached from here .*: see their advertised.listeners",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_broker_refuses_is_said_at_once_in_words(case: str, secured: SecuredKafka) -> None:
    given, words = REFUSED[case]
    with pytest.raises(RefusedError, match=words):
        connect(KafkaSettings.model_validate(given(secured)))


def test_tls_alone_is_enough_where_the_authority_is_known(secured: SecuredKafka) -> None:
    settings = BASE.model_copy(update={"bootstrap": secured.tls, "security": "ssl", "ca_file": str(secured.folder / "ca.pem")})
    assert asyncio.run(check_topics(settings)) == ()


def test_a_broker_that_answers_stands_in_for_those_that_do_not(secured: SecuredKafka) -> None:
    assert connect(BASE.model_copy(update={"bootstrap": f"127.0.0.1:9,{secured.node.bootstrap}"})) < WITHIN_S


@pytest.mark.parametrize(
    ("address", "words"), [("127.0.0.1:9", "Connect call failed"), ("no-such-machine.invalid:9092", "no machine has that name")]
)
def test_nobody_who_answers_is_no_refusal(address: str, words: str) -> None:
    with pytest.raises(LogError, match=f"Kafka at {address}: expected a broker that answers, got none: .*{words}") as caught:
        connect(KafkaSettings(bootstrap=address))
    assert not isinstance(caught.value, RefusedError)


@pytest.fixture
def old_broker() -> Iterator[str]:
    """A server that answers as Kafka 1.0 did: its Metadata request ends at version 5."""

    def serve() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    size = int.from_bytes(connection.recv(4), "big")
                    asked = connection.recv(size)
                    body = asked[4:8] + bytes(2) + (2).to_bytes(4, "big")
                    body += b"".join(key.to_bytes(2, "big") + bytes(2) + last.to_bytes(2, "big") for key, last in ((3, 5), (18, 1)))
                    connection.sendall(len(body).to_bytes(4, "big") + body)
                    connection.recv(1)
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()


def test_a_broker_that_is_too_old_is_refused(old_broker: str) -> None:
    with pytest.raises(RefusedError, match=r"expected Kafka 2\.8 or newer, got an older broker"):
        connect(KafkaSettings(bootstrap=old_broker))


def test_what_is_missing_is_named_topic_by_topic(secured: SecuredKafka) -> None:
    told = refusal(secured.settings("nobody", BASE), BRIDGE)
    assert "topic lab.system.events.run: expected the right to write, got none" in told
    assert f"and {len(BRIDGE.writes) - 3} more" in told
    told = refusal(secured.settings("novice", BASE), BRIDGE)
    assert told.endswith("transactional ids lab.bridge-*: expected the right to write, got none")
    told = refusal(secured.settings("reader", BASE), WORKER)
    assert "topic lab.observability.aggregates: expected the right to write, got none" in told
    told = refusal(secured.settings("bridge", BASE, partitions=5), BRIDGE)
    assert "topic lab.system.events.run: expected 5 partitions, got 2" in told


def test_the_group_of_workers_is_a_right_too(secured: SecuredKafka) -> None:
    secured.change("worker", "GROUP", ["lab.worker"], ["READ"], add=False)
    settings, words = secured.settings("worker", BASE), "group lab.worker: expected the right to read, got none"
    until(lambda: refusal(settings, WORKER).endswith(words))
    secured.change("worker", "GROUP", ["lab.worker"], ["READ"])
    until(lambda: not refusal(settings, WORKER))


def test_topics_are_neither_made_nor_read_without_rights(secured: SecuredKafka) -> None:
    with pytest.raises(LogError, match=r"did not make topic lab\..*Authorization failed"):
        asyncio.run(create_topics(secured.settings("nobody", BASE)))
    found = asyncio.run(check_topics(secured.settings("reader", BASE)))
    assert f"topic {BASE.topic(STEPS)}: expected the right to describe its settings, got none" in found


def test_bridge_and_worker_and_reader_do_their_work_with_the_least_rights(secured: SecuredKafka, tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, run=run_of(1))
    bridge = Bridge(directory, secured.settings("bridge", BASE))
    asyncio.run(bridge.run(asyncio.Event(), drain=True))
    assert bridge.state.shipped == len(log_of(directory, run_of(1)))

    async def derive() -> None:
        settings = secured.settings("worker", BASE)
        ledgers = [await Ledger.open(settings, partition, LedgerSettings(state_every_s=0.1)) for partition in range(2)]
        for ledger in ledgers:
            while await ledger.turn():
                pass
            await ledger.close()
        assert sum(ledger.counts["derived"] for ledger in ledgers) > 0

    asyncio.run(derive())
    reader = Cluster(secured.settings("reader", BASE))
    assert len(asyncio.run(reader.messages(*READER.reads))) > bridge.state.shipped
    mirrored = Directory(tmp_path / "mirror", create=True)
    asyncio.run(Mirror(reader.settings, mirrored).run(asyncio.Event(), until_caught_up=True))
    assert log_of(mirrored, run_of(1)) == log_of(directory, run_of(1))


@pytest.mark.parametrize("number", [3, 4], ids=["SASL", "TLS"])
def test_a_worker_derives_where_its_member_needs_a_password_or_tls(number: int, secured: SecuredKafka, tmp_path: Path) -> None:
    directory, folder = Directory(tmp_path / "log", create=True), tmp_path / "settings"
    folder.mkdir()
    write_run(directory, run=run_of(number))
    asyncio.run(Bridge(directory, secured.settings("bridge", BASE)).run(asyncio.Event(), drain=True))
    settle(folder, "worker", secured.folder / "password")
    if number == 4:
        lines = (
            f'prefix = "{PREFIX}"',
            'security = "ssl"',
            f'ca_file = "{secured.folder / "ca.pem"}"',
            "partitions = 2",
            "replication = 1",
        )
        (folder / "kafka.toml").write_text("\n".join(lines))
    with started(secured.sasl if number == 3 else secured.tls, folder) as process:
        wait_for(Cluster(admin_of(secured)), directory)
        process.terminate()
        assert process.wait(_ENDS_S) == 0
    assert (folder / "errors").read_text() == ""


@pytest.mark.parametrize("security", ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_faust_gives_its_client_what_ours_are_given(security: str, mechanism: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    user = {"username": "worker", "password_file": str(tmp_path / "password")} if security.startswith("sasl") else {}
    settings = KafkaSettings.model_validate(BASE.model_dump() | {"security": security, "mechanism": mechanism} | user)
    wanted = {name: value for name, value in settings.client().items() if name.startswith(("security", "sasl", "ssl"))}
    given = dict(credentials_to_aiokafka_auth(build_app(settings, LedgerSettings(), port=None).conf.broker_credentials))
    contexts = [arguments.pop("ssl_context", None) is not None for arguments in (wanted, given)]
    assert given == wanted
    assert contexts == [security.endswith("ssl")] * 2


def test_a_worker_process_that_is_refused_ends_with_the_reason(secured: SecuredKafka, tmp_path: Path) -> None:
    settle(tmp_path, "worker", secured.folder / "wrong")
    command = [sys.executable, "-W", "ignore", "-m", "streams", f"kafka://{secured.sasl}", "--settings", os.fspath(tmp_path)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], text=True, capture_output=True, timeout=_ENDS_S, check=False)
    assert ended.returncode == FAILED
    assert ended.stderr.startswith(f"esper worker: Kafka at {secured.sasl}: expected user 'worker' to be let in, got a refusal")
    assert ended.stderr.count("\n") == 1


def test_a_bridge_may_write_nothing_but_what_runs_write(secured: SecuredKafka) -> None:
    settings = secured.settings("bridge", BASE)

    async def write(topic: str) -> None:
        from esper.kafka.clients import Outgoing

        async with producing(settings, "bridge-x") as producer:
            await transact(producer, settings, [Outgoing(settings.topic(topic), b"x", b"x", [], 0)])

    for topic in ("observability.alerts", STEPS + DEAD_LETTER_SUFFIX, LEAD):
        with pytest.raises(LogError, match=f"expected rights on its topics, got a refusal: .*{settings.topic(topic)}"):
            asyncio.run(write(topic))
    with pytest.raises(LogError, match=r"expected the right to write under the transactional id, got a refusal: .*lab\.ledger-0"):
        asyncio.run(_fence(settings))
    with pytest.raises(LogError, match="expected rights on its topics, got a refusal"):
        asyncio.run(Cluster(settings).messages(STEPS))


async def _fence(settings: KafkaSettings) -> None:
    async with producing(settings, "ledger-0"):
        pass


@pytest.mark.parametrize("command", [["topics", "check"], ["topics", "create"], ["bridge"], ["worker"]])
def test_commands_that_are_refused_end_at_once_with_the_reason(
    command: list[str], secured: SecuredKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settle(tmp_path, "bridge", secured.folder / "wrong")
    began = time.monotonic()
    assert main([*command, "--kafka", f"kafka://{secured.sasl}", "--log", str(tmp_path)]) == 1
    assert "expected user 'bridge' to be let in, got a refusal" in capsys.readouterr().err
    assert time.monotonic() - began < WITHIN_S


def settle(folder: Path, user: str, password_file: Path, *more: str) -> None:
    """Writes kafka.toml."""
    lines = ('security = "sasl_plaintext"', f'username = "{user}"', f'password_file = "{password_file}"', f'prefix = "{PREFIX}"', *more)
    (folder / "kafka.toml").write_text("\n".join([*lines, "partitions = 2", "replication = 1", ""]))


def test_a_password_stands_in_no_output_state_or_argument(secured: SecuredKafka, tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    write_run(directory, run=run_of(2))
    settle(tmp_path, "bridge", secured.folder / "password")
    command = [sys.executable, "-m", "esper.cli", "bridge", "--kafka", f"kafka://{secured.sasl}", "--log", os.fspath(tmp_path)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            until((tmp_path / run_of(2) / "bridged").exists)
            arguments = Path(f"/proc/{process.pid}/cmdline").read_text()
        finally:
            process.terminate()
        told = process.communicate(timeout=_ENDS_S)[0]
    assert process.returncode == 0
    kept = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file() and path.suffix in {".json", ".topics", ".toml"})
    assert PASSWORD not in arguments + told + kept


def test_a_password_that_is_sent_as_it_stands_is_not_logged_either(secured: SecuredKafka) -> None:
    heard: list[str] = []
    handler, root = logging.Handler(), logging.getLogger()
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        settings = secured.settings("nobody", BASE, mechanism="PLAIN")
        with pytest.raises(RefusedError) as caught:
            asyncio.run(check_needs(settings, BRIDGE))
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    assert heard
    assert PASSWORD not in f"{heard} {caught.value!r} {settings!r} {vars(Bridge(Directory(secured.folder), settings))}"
