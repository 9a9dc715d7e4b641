"""Settings of a Kafka cluster: the address that a user types, and kafka.toml. Passwords stand in files or environment variables."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from esper.errors import SettingsError
from esper.settings import TomlFile, read_secret, read_text, settings_of

SCHEME = "kafka://"
KAFKA_TOML = "kafka.toml"
_ADDRESS = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}")


def _addresses(text: str) -> str:
    if not all(_ADDRESS.fullmatch(one) for one in text.split(",")):
        raise ValueError("expected host:port, or several with commas between them")
    return text


class KafkaSettings(BaseModel):
    """The cluster, its security, and the shape of its topics."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    bootstrap: Annotated[str, AfterValidator(_addresses)]
    """host:port of one broker or more."""
    security: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    ca_file: str | None = None
    """Certificates that sign the brokers' own; those of the system where none is named."""
    certificate_file: str | None = None
    """The certificate of this client, with its private key in `key_file`."""
    key_file: str | None = None
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-256"
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    """The start of every topic's, group's and transactional id's name, where several installations share a cluster."""
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Partitions of every topic, the same for all: a run's records have one partition number everywhere."""
    replication: Annotated[int, Field(ge=1, le=10)] = 3
    compression: Literal["none", "gzip"] = "gzip"
    request_timeout_s: Annotated[float, Field(ge=1, le=600)] = 40.0
    """The longest that a request may take. 10 s is too short on a busy machine: every start fails there."""

    @model_validator(mode="after")
    def _sasl_is_whole(self) -> Self:
        given = (self.username, self.password_file or self.password_env)
        if self.security.startswith("sasl") != all(given) or any(given) != all(given) or (self.password_file and self.password_env):
            raise ValueError("expected username and one of password_file, password_env with a security of sasl_..., and without it none")
        return self

    def topic(self, name: str) -> str:
        """The name on the cluster of Esper's topic `name`."""
        return self.prefix + name

    def client(self) -> dict[str, Any]:  # Any: aiokafka's arguments.
        """The arguments that every aiokafka client takes. Raises SettingsError for a secret or certificate that cannot be read."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "request_timeout_ms": int(self.request_timeout_s * 1000),
            "security_protocol": self.security.upper(),
        }
        if self.security.endswith("ssl"):
            arguments["ssl_context"] = self._ssl_context()
        password = read_secret(self.password_file, self.password_env)
        if password is not None:
            arguments |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": password.get_secret_value(),
            }
        return arguments

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.key_file)
        except (OSError, ssl.SSLError) as error:
            files = [name for name in (self.ca_file, self.certificate_file, self.key_file) if name]
            raise SettingsError(f"cannot load the certificates in {', '.join(files)}: {error}") from error
        return context


def is_kafka(log: str) -> bool:
    """True for the address of a log on Kafka; False for a directory."""
    return log.startswith(SCHEME)


def kafka_settings(address: str, directory: Path) -> KafkaSettings:
    """The settings of the cluster at `address` (`kafka://host:port,host:port`), with those in kafka.toml of `directory`.

    Raises SettingsError, with the line, for a mistake in the file, and for an address that holds a password or anything but addresses.
    """
    if not is_kafka(address):
        raise SettingsError(f"expected {SCHEME}host:port, got {address!r}")
    if "@" in address:
        raise SettingsError(f"expected {SCHEME}host:port, got an address with a user or password in it: name them in {KAFKA_TOML}")
    values: Mapping[str, object] = {"bootstrap": address.removeprefix(SCHEME).rstrip("/")}
    found = read_text("Kafka settings", None, directory / KAFKA_TOML)
    if found is None:
        return settings_of(KafkaSettings, values, "kafka")
    file = TomlFile(*found)
    file.content |= values
    return file.table(KafkaSettings)
