"""deploy/compose.yml names things that exist: no Docker engine runs here, so it is read, and the rest is checked against what it mounts."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kafka import docker_kafka

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())  # Any: YAML.
SERVICES: dict[str, Any] = COMPOSE["services"]
BROKERS = {name: service for name, service in SERVICES.items() if name.startswith("kafka")}
ON_THE_HOST = sorted(SERVICES.keys() - BROKERS.keys())


def properties(name: str) -> dict[str, str]:
    """The properties of a broker, from its variables as the image reads them: KAFKA_A_B is a.b."""
    variables = BROKERS[name]["environment"].items()
    return {key.removeprefix("KAFKA_").replace("_", ".").lower(): value for key, value in variables if key.startswith("KAFKA_")}


def listeners(text: str) -> dict[str, tuple[str, int]]:
    """Host and port by the name of a listener."""
    return {name: (host, int(port)) for name, host, port in re.findall(r"(\w+)://([\w.-]*):(\d+)", text)}


def test_images_have_versions_and_the_broker_is_the_one_that_tests_use() -> None:
    version = re.search(r"<kafka\.version>([\w.]+)</kafka\.version>", (DEPLOY / "kafka" / "pom.xml").read_text())
    assert version is not None
    assert {service["image"] for service in BROKERS.values()} == {f"apache/kafka:{version[1]}"}
    assert all(re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"]) for service in SERVICES.values())


def test_what_is_mounted_exists_and_every_volume_is_declared() -> None:
    for service in SERVICES.values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]


def test_everything_listens_at_loopback_alone() -> None:
    assert [port.rpartition(":")[0].rpartition(":")[0] for broker in BROKERS.values() for port in broker["ports"]] == ["127.0.0.1"] * 3
    for name in ON_THE_HOST:
        told = f"{SERVICES[name].get('command', '')} {SERVICES[name].get('environment', '')}"
        assert "127.0.0.1" in told
        assert "0.0.0.0" not in told  # noqa: S104


@pytest.mark.parametrize("name", BROKERS)
def test_a_broker_is_found_at_the_addresses_that_it_gives_out(name: str) -> None:
    settings = properties(name)
    inside, given = listeners(settings["listeners"]), listeners(settings["advertised.listeners"])
    assert given["INSIDE"] == (BROKERS[name]["hostname"], inside["INSIDE"][1])
    host, _, port = BROKERS[name]["ports"][0].rpartition(":")
    assert (host, int(port)) == (f"127.0.0.1:{given['OUTSIDE'][1]}", inside["OUTSIDE"][1])
    assert f"{settings['node.id']}@{name}:{inside['CONTROLLER'][1]}" in settings["controller.quorum.voters"].split(",")
    assert settings["controller.listener.names"] in settings["listener.security.protocol.map"]
    assert inside.keys() == {one.split(":")[0] for one in settings["listener.security.protocol.map"].split(",")}
    assert f"{name}:{settings['log.dirs']}" in BROKERS[name]["volumes"]


@pytest.mark.parametrize("name", BROKERS)
def test_a_broker_may_be_lost(name: str) -> None:
    settings = properties(name)
    assert {settings[key] for key in settings if key.endswith("replication.factor")} == {"3"}
    assert {settings[key] for key in settings if key.endswith(("min.isr", "min.insync.replicas"))} == {"2"}
    assert settings["auto.create.topics.enable"] == "false"


def test_the_names_of_properties_are_those_of_the_broker_that_tests_start() -> None:
    known = set(re.findall(r"^([\w.]+)=", (DEPLOY / "kafka" / "server.properties").read_text(), re.MULTILINE))
    assert properties("kafka-1").keys() - known == {"default.replication.factor", "min.insync.replicas"}


def test_prometheus_grafana_and_alertmanager_find_each_other() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())
    plain = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    del plain["scrape_configs"][0]["authorization"]  # The container's account may not read the token.
    assert {key: value for key, value in prometheus.items() if key != "alerting"} == {k: v for k, v in plain.items() if k != "alerting"}
    (target,) = prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert f"--web.listen-address={target}" in SERVICES["alertmanager"]["command"]
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in SERVICES["prometheus"]["command"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/esper.yml").read_text())["providers"]
    mounted = {mount.split(":")[1] for mount in SERVICES["grafana"]["volumes"] if mount.startswith("./")}
    assert {f"{provider['options']['path']}/{path.name}" for path in (DEPLOY / "grafana").glob("*.json")} <= mounted


def test_the_container_of_tests_is_the_broker_of_the_local_script() -> None:
    made = docker_kafka.variables(20123)
    assert made["KAFKA_LISTENERS"] == "PLAINTEXT://:20123,CONTROLLER://:9093"
    assert made["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://127.0.0.1:20123"
    assert made["KAFKA_TRANSACTION_STATE_LOG_MIN_ISR"] == "1"
    assert docker_kafka.image() in {broker["image"] for broker in BROKERS.values()}


@pytest.mark.skipif(shutil.which("amtool") is None or shutil.which("promtool") is None, reason="needs amtool and promtool")
def test_the_tools_of_prometheus_and_alertmanager_accept_their_files() -> None:
    for command in (
        ["amtool", "check-config", str(DEPLOY / "alertmanager" / "alertmanager.yml")],
        ["promtool", "check", "config", str(DEPLOY / "prometheus" / "compose.yml")],
    ):
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
