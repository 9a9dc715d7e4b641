"""Connections that end in time: a limit on connecting, one on the whole exchange whatever the other side does, and verified TLS.

A socket's own timeout begins again with every byte, so a receiver that answers one byte a second would hold a handler for ever. Here the
connection is cut from outside when the time is up, and whatever read from it finds its end.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from esper.errors import SettingsError


class Peer(NamedTuple):
    """Where to connect, for how long at most, and with which certificates; without a context it is plain text."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    connect_timeout_s: float
    timeout_s: float


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """A context that verifies certificate and name, against the machine's authorities or those of `ca_file`. Raises SettingsError."""
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise SettingsError(f"expected certificates in {ca_file}: {error}") from error


@contextmanager
def connected(peer: Peer, *, tls_at_once: bool) -> Iterator[socket.socket]:
    """An open connection that is cut `timeout_s` after the start, name and handshake included but for what the resolver takes.

    Raises OSError (TimeoutError where the time is up, ssl.SSLError for a certificate that cannot be trusted).
    """
    ends_at_s = time.monotonic() + peer.timeout_s
    with (
        socket.create_connection((peer.host, peer.port), timeout=min(peer.connect_timeout_s, peer.timeout_s)) as plain,
        _cut_off(plain, ends_at_s, peer.timeout_s),
    ):
        if tls_at_once and peer.tls is not None:
            with peer.tls.wrap_socket(plain, server_hostname=peer.host) as wrapped:
                wrapped.settimeout(None)  # From here on it is cut when its time is up.
                yield wrapped
        else:
            plain.settimeout(None)
            yield plain


@contextmanager
def _cut_off(connection: socket.socket, ends_at_s: float, timeout_s: float) -> Iterator[None]:
    # A second descriptor of the same connection: it stays valid when TLS takes over the first one, and cannot become another's.
    twin = socket.socket(connection.family, connection.type, fileno=os.dup(connection.fileno()))
    is_over = threading.Event()

    def cut() -> None:
        is_over.set()
        with suppress(OSError):  # The other side was faster.
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, ends_at_s - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
        if is_over.is_set():  # An answer that was cut may look like a whole one.
            raise TimeoutError
    except Exception as error:
        if is_over.is_set():
            raise TimeoutError(f"no complete answer within {timeout_s:g} s") from error
        raise
    finally:
        timer.cancel()
        timer.join()
        twin.close()
