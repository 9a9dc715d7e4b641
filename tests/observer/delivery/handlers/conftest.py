"""Certificates of an authority that lives for one session, and that nobody else trusts."""

import ssl
from pathlib import Path

import pytest
import trustme

from esper.observer.delivery.handlers.connection import trust


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, as a file."""
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


@pytest.fixture(scope="session")
def trusting(ca_file: Path) -> ssl.SSLContext:
    """A client's context that trusts the authority alone."""
    return trust(ca_file)


def _server(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture(scope="session")
def serving(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context, for 127.0.0.1."""
    return _server(authority, "127.0.0.1")


@pytest.fixture(scope="session")
def serving_another_name(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context for a name that it does not have."""
    return _server(authority, "elsewhere.test")
