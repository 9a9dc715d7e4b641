"""What stands before every route: host names, the token, other sites' pages, the size of a body; and the headers of every answer.

Against DNS rebinding a name must be one that the service knows; a plain address is always right, for a rebound request carries a name.
"""

import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esper.nissa.problems import ProblemResponse, problem

OPEN = frozenset({"/healthz", "/readyz", "/-/healthy", "/-/ready"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:\d{1,5})?")
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Guarded:
    """What the guard goes by. `token` None: nobody is asked for one."""

    names: frozenset[str]
    token: str | None
    body_limit_bytes: int


def own_names(names: Iterable[str]) -> frozenset[str]:
    """The host names that mean this service: `names`, localhost and the machine's own."""
    return frozenset(name.lower().rstrip(".") for name in (*names, "localhost", socket.gethostname()))


class Guard:
    """An ASGI application around another, through which every request goes."""

    def __init__(self, app: ASGIApp, guarded: Guarded) -> None:
        self._app = app
        self._guarded = guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that is refused itself, and hands any other on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        await self._app(scope, _limited(receive, self._guarded.body_limit_bytes), with_headers)

    def _refusal(self, scope: Scope) -> ProblemResponse | None:
        headers = Headers(scope=scope)
        if not self._is_known(headers.get("host", "")):
            return problem(400, "unknown-host", "expected a plain address or a name in the setting nissa.names in the header Host")
        if self._guarded.token is not None and scope["path"] not in OPEN and not self._is_bearer(headers.get("authorization", "")):
            wanted = {"WWW-Authenticate": 'Bearer realm="esper"'}
            return problem(401, "unauthorized", "expected the header Authorization: Bearer TOKEN", headers=wanted)
        if scope["method"] not in _SAFE and not _is_same_site(headers):
            return problem(403, "cross-site", "a page of another site may not do this")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:12]) > self._guarded.body_limit_bytes:
            return problem(413, "too-large", f"expected a body of at most {self._guarded.body_limit_bytes} bytes")
        return None

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found["name"].lower().rstrip(".")
        if name in self._guarded.names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _is_bearer(self, authorization: str) -> bool:
        scheme, _, token = authorization.partition(" ")
        assert self._guarded.token is not None
        # Compared in a time that does not tell how much of it is right.
        right = hmac.compare_digest(token.strip().encode(), self._guarded.token.encode())
        return right and scheme.lower() == "bearer"


def _is_same_site(headers: Headers) -> bool:
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _limited(receive: Receive, limit_bytes: int) -> Receive:
    """`receive`, which gives no more than `limit_bytes` of a body, whatever its length was said to be."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > limit_bytes:
                raise HTTPException(413)
        return message

    return limited
