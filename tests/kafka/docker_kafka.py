"""A broker in a container, for machines with a Docker engine and without Java: the official image, with the properties of the local one."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from string import Template

from local_kafka import DEPLOY, free_ports

_ENGINE_S, _START_S = 2, 120
_CONTROLLER_PORT = 9093


def engine_answers() -> bool:
    """True where a Docker engine answers."""
    try:
        import docker

        return bool(docker.from_env(timeout=_ENGINE_S).ping())
    except Exception:  # docker raises what its transport raises; whatever it is, there is no engine to use.
        return False


def image() -> str:
    """The official image of the version that pom.xml names."""
    version = re.search(r"<kafka\.version>([\w.]+)</kafka\.version>", (DEPLOY / "pom.xml").read_text())
    assert version is not None
    return f"apache/kafka:{version[1]}"


def variables(port: int) -> dict[str, str]:
    """The variables of a container whose clients are told 127.0.0.1:`port`: the image reads KAFKA_A_B as a.b."""
    template = Template((DEPLOY / "server.properties").read_text())
    voters, folder = f"1@localhost:{_CONTROLLER_PORT}", "/tmp/kafka"  # noqa: S108 - in the container.
    given = {"NODE": 1, "VOTERS": voters, "COPIES": 1, "IN_SYNC": 1, "LISTENERS": "", "DIR": folder}
    text = template.substitute(given, PORT=port, CONTROLLER_PORT=_CONTROLLER_PORT)
    found = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    found["listeners"] = f"PLAINTEXT://:{port},CONTROLLER://:{_CONTROLLER_PORT}"
    return {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in found.items()}


@contextmanager
def container() -> Iterator[str]:
    """The address of a broker in a container, for as long as this lasts."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    (port,) = free_ports(1)  # Chosen before: the broker gives its address out.
    made = DockerContainer(image()).with_bind_ports(port, port)
    for name, value in variables(port).items():
        made.with_env(name, value)
    with made:
        wait_for_logs(made, "Kafka Server started", timeout=_START_S)
        yield f"127.0.0.1:{port}"
