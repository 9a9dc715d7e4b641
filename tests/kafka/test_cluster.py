"""How a cluster is named: an address, kafka.toml, and secrets that stand elsewhere."""

from pathlib import Path

import pytest

from esper.errors import SettingsError
from esper.kafka.cluster import KafkaSettings, is_kafka, kafka_settings


def test_an_address_alone_is_enough(tmp_path: Path) -> None:
    settings = kafka_settings("kafka://one:9092,two:9092", tmp_path)
    assert settings.client() == {
        "bootstrap_servers": ["one:9092", "two:9092"],
        "request_timeout_ms": 40_000,
        "security_protocol": "PLAINTEXT",
    }
    assert is_kafka("kafka://one:9092")
    assert not is_kafka("runs")


def test_the_file_of_the_directory_says_the_rest_and_the_address_wins(tmp_path: Path) -> None:
    (tmp_path / "kafka.toml").write_text('bootstrap = "other:1"\nprefix = "lab."\npartitions = 4\n')
    settings = kafka_settings("kafka://one:9092", tmp_path)
    assert (settings.bootstrap, settings.topic("x"), settings.partitions) == ("one:9092", "lab.x", 4)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("runs", r"expected kafka://host:port, got 'runs'"),
        ("kafka://user:secret@one:9092", r"expected kafka://host:port, got an address with a user or password"),
        ("kafka://one", r"setting kafka.bootstrap: expected host:port"),
        ("kafka://", r"setting kafka.bootstrap: expected host:port"),
    ],
)
def test_an_address_with_a_mistake_is_refused_without_its_secret(address: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=reason) as caught:
        kafka_settings(address, tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('prefx = "a"', r"kafka.toml:1: prefx: unknown key, perhaps prefix"),
        ('\npartitions = "8"', r"kafka.toml:2: partitions: expected a whole number, got '8'"),
        ('security = "sasl_ssl"', r"expected username and one of password_file, password_env"),
        ('username = "u"\npassword_env = "P"', r"expected username and one of password_file, password_env"),
    ],
)
def test_a_mistake_in_the_file_is_refused_with_its_line(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "kafka.toml").write_text(text)
    with pytest.raises(SettingsError, match=reason):
        kafka_settings("kafka://one:9092", tmp_path)


def test_a_password_is_read_when_a_client_is_made_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings(bootstrap="one:9092", security="sasl_plaintext", username="u", password_env="ESPER_TEST_PASSWORD")  # noqa: S106
    with pytest.raises(SettingsError, match="expected a secret in the environment variable ESPER_TEST_PASSWORD"):
        settings.client()
    monkeypatch.setenv("ESPER_TEST_PASSWORD", "hunter2")
    assert settings.client()["sasl_plain_password"] == "hunter2"  # noqa: S105
    assert "hunter2" not in repr(settings)


def test_certificates_that_cannot_be_loaded_are_named(tmp_path: Path) -> None:
    settings = KafkaSettings(bootstrap="one:9092", security="ssl", ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(SettingsError, match=r"cannot load the certificates in .*none.pem"):
        settings.client()
