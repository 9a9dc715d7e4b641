"""A broker with users, rights and certificates: plain for its administrator, and SASL_PLAINTEXT, SSL and SASL_SSL for everybody else.

The listener of SASL_SSL gives out an address where nobody listens, as a broker behind a wrong advertised.listeners does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from local_kafka import LocalKafka, free_ports

from esper.kafka.cluster import KafkaSettings

PASSWORD = "correct-horse-7"  # noqa: S105
USERS = ("bridge", "worker", "reader", "nobody", "novice")
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_nobody="{PASSWORD}";'
_WITHIN_S = 30


@dataclass(frozen=True)
class SecuredKafka:
    """`node`, which answers at `sasl` and `tls` beside its own address."""

    node: LocalKafka
    folder: Path
    sasl: str
    tls: str
    lost: str

    @classmethod
    def make(cls, folder: Path) -> "SecuredKafka":
        """A broker that is not started yet, with its certificates in `folder`."""
        port, sasl, tls, lost, nowhere = free_ports(5)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate = authority.issue_cert("127.0.0.1")
        key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # Java reads no other form.
        (folder / "server.pem").write_bytes(text + b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        for name, secret in (("password", PASSWORD), ("wrong", "of-nobody")):
            (folder / name).write_text(f"{secret}\n")
            (folder / name).chmod(0o600)
        listeners = {"SASL_PLAINTEXT": sasl, "SSL": tls, "SASL_SSL": lost}
        given_out = {"PLAINTEXT": port, "SASL_PLAINTEXT": sasl, "SSL": tls, "SASL_SSL": nowhere}
        properties = {
            "advertised.listeners": ",".join(f"{protocol}://127.0.0.1:{number}" for protocol, number in given_out.items()),
            "sasl.enabled.mechanisms": "SCRAM-SHA-256,PLAIN",
            **{f"listener.name.{name}.scram-sha-256.sasl.jaas.config": _SCRAM for name in ("sasl_plaintext", "sasl_ssl")},
            **{f"listener.name.{name}.plain.sasl.jaas.config": _PLAIN for name in ("sasl_plaintext", "sasl_ssl")},
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "server.pem"),
        }
        node = LocalKafka(folder, port, listeners=listeners, properties=properties, passwords=dict.fromkeys(USERS, PASSWORD))
        return cls(node, folder, *(f"127.0.0.1:{number}" for number in (sasl, tls, lost)))

    def settings(self, user: str, base: KafkaSettings, **more: Any) -> KafkaSettings:  # Any: fields of KafkaSettings.
        """`base`, for `user`."""
        given = {"bootstrap": self.sasl, "security": "sasl_plaintext", "username": user, "password_file": str(self.folder / "password")}
        return KafkaSettings.model_validate(base.model_dump() | given | more)

    def change(self, user: str, kind: str, names: Iterable[str], operations: Iterable[str], *, add: bool = True) -> None:
        """Gives `user` the right to `operations` on `names`, with `add=False` takes it away; a * at the end of a name is any end."""
        acls = [
            AclBinding(
                ResourceType[kind],
                name.removesuffix("*"),
                ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for name in names
            for operation in operations
        ]
        admin = AdminClient({"bootstrap.servers": self.node.bootstrap})
        changing = admin.create_acls(acls) if add else admin.delete_acls([_filter(acl) for acl in acls])
        for future in changing.values():
            future.result(timeout=_WITHIN_S)


def _filter(acl: AclBinding) -> Any:  # Any: confluent-kafka has no types.
    return AclBindingFilter(acl.restype, acl.name, acl.resource_pattern_type, acl.principal, acl.host, acl.operation, acl.permission_type)
