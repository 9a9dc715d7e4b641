"""Fixtures for tests that talk to a real broker: one broker for the session, a topic of its own for each test.

A test that stops, kills or secures a broker takes `own_kafka` and is marked `chaos`; nobody touches the shared one.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from local_kafka import LocalCluster, LocalKafka, can_run

from tests.kafka.docker_kafka import container, engine_answers
from tests.kafka.made_cluster import Cluster
from tests.kafka.topic_factory import TopicFactory

_MISSING = "no Kafka: set ESPER_TEST_BROKER=host:port, or install Java 17 and Maven, or Docker"
_skipped = pytest.StashKey[bool]()


def do_without(config: pytest.Config) -> NoReturn:
    """Skips, and says so at the end of the run; on CI a broker that is missing is a failure, or nobody would ever notice."""
    if os.environ.get("CI"):
        pytest.fail(_MISSING)
    config.stash[_skipped] = True
    pytest.skip(_MISSING)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Shows what was not tested, whatever the verbosity: skips alone are easily overlooked."""
    if config.stash.get(_skipped, False):
        terminalreporter.section("KAFKA WAS NOT TESTED", red=True, bold=True)
        terminalreporter.line(_MISSING)


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a broker for the whole session: the one that ESPER_TEST_BROKER names, else one of this machine, else a container."""
    given = os.environ.get("ESPER_TEST_BROKER")
    if given:
        yield given
        return
    if not can_run():
        if not engine_answers():
            do_without(request.config)
        with container() as address:
            yield address
        return
    node = LocalKafka(tmp_path_factory.mktemp("kafka"))
    try:
        node.start()
        yield node.bootstrap
    finally:
        node.kill()  # not stopped: nobody needs this data


@pytest.fixture
def own_kafka(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalKafka]:
    """A running broker that this test alone has, to stop, kill and start as it likes; always one of this machine."""
    if not can_run():
        do_without(request.config)
    node = LocalKafka(tmp_path)
    try:
        node.start()
        yield node
    finally:
        node.kill()


@pytest.fixture
def three_brokers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster of three that this test alone has; any one of them may be killed."""
    if not can_run():
        do_without(request.config)
    brokers = LocalCluster(tmp_path / "brokers")
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.kill()


@pytest.fixture
def topic(kafka: str) -> TopicFactory:
    """Makes topics on the shared broker: `name = await topic(partitions=4)`. Use the name as the consumer group's too."""
    return TopicFactory(kafka)


@pytest.fixture
def cluster(kafka: str) -> Cluster:
    """Esper's topics on the shared broker, which this test alone uses."""
    return Cluster.make(kafka)
