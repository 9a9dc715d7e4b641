"""Limits of the connections of a service: how many there are, and how long one may wait for its client.

A connection that waits for its client (nothing asked, or a request that is not whole) makes room for a new one, the one that waits longest
first: who holds many open shuts nobody out. A request has a time for its headers and again for its body. A client that takes nothing of
what it is sent for that long is cut.
"""

import asyncio
import resource
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

KEPT_ASIDE = 640
"""Descriptors that no connection takes: the log's files, at most 64 open and 64 sealed at three each, and what a server and its threads
need."""
_AT_ONCE = 64  # asyncio accepts so many before it asks anybody: they take descriptors too.
_BACKLOG = 2048  # Of the system: where it is full, a client holds for open what never will be.
_FEWEST = 16
_PROGRESS_BYTES = 65_536
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    b'{"type":"urn:esper:problem:too-many-connections","title":"Service Unavailable","status":503}'
)


@dataclass
class ConnectionLimits:
    """The limits of one service, and its open connections: True for those that wait for their clients, the longest first."""

    connections: int
    request_s: float
    unread_s: float
    open: "dict[BoundedProtocol, bool]" = field(default_factory=dict)

    def make_room(self) -> bool:
        """True where one more connection may stay; one that waits for its client may be cut for it."""
        if len(self.open) < self.connections:
            return True
        longest = next((protocol for protocol, waits in self.open.items() if waits), None)
        if longest is not None:
            longest.cut()
        return longest is not None


def connections_within(wanted: int) -> int:
    """`wanted`, or as many connections as the limit of descriptors allows beside what is kept aside.

    That limit is raised as far as it is needed and may be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + KEPT_ASIDE
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, max(_FEWEST, soft - KEPT_ASIDE))


class BoundedServer(uvicorn.Server):
    """uvicorn's server, whose connections keep within `limits`."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits, **settings: Any) -> None:  # Any: of uvicorn.Config.
        http: Any = partial(BoundedProtocol, limits=limits)  # A class, says uvicorn; it is called and nothing else.
        super().__init__(uvicorn.Config(app, http=http, backlog=_AT_ONCE, **settings))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol of one connection, within `limits`."""

    def __init__(self, *, limits: ConnectionLimits, **uvicorns: Any) -> None:  # Any: what uvicorn gives.
        super().__init__(**uvicorns)
        self._limits = limits
        self._awaited: object = None
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # As uvicorn has it.
        """Takes the connection, or refuses it."""
        if not self._limits.make_room():
            transport.write(_BUSY)
            transport.close()
            return
        super().connection_made(transport)
        self._wait_for_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        if self.transport is not None:
            self._forget()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what the client sent; one that was refused is not listened to."""
        if self.transport is not None:
            super().data_received(data)

    def handle_events(self) -> None:
        """Handles what has come, and gives the next part of a request its time."""
        super().handle_events()
        self._wait_for_client()

    def pause_writing(self) -> None:
        """The client does not take what it is sent: it has `unread_s` for each 64 KiB."""
        super().pause_writing()
        self._watch_unread(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The client took it."""
        super().resume_writing()
        _cancel(self._unread)

    def cut(self) -> None:
        """Ends the connection at once."""
        self._forget()
        self.transport.abort()

    def _wait_for_client(self) -> None:
        state = self.conn.their_state
        awaited = state if state in {h11.IDLE, h11.SEND_BODY} else None
        if self.transport.is_closing() or awaited is self._awaited:
            return
        self._awaited = awaited
        self._limits.open.pop(self, None)
        self._limits.open[self] = awaited is not None
        _cancel(self._late)
        self._late = None if awaited is None else self.loop.call_later(self._limits.request_s, self.cut)

    def _watch_unread(self, left: int) -> None:
        _cancel(self._unread)
        self._unread = self.loop.call_later(self._limits.unread_s, self._require_progress, left)

    def _require_progress(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left > before - _PROGRESS_BYTES:
            self.cut()
        else:
            self._watch_unread(left)

    def _forget(self) -> None:
        self._limits.open.pop(self, None)
        _cancel(self._late)
        _cancel(self._unread)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
