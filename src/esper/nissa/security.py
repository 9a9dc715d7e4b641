"""Security of every request: host names, the token, pages of other sites, the size of a body; and the headers of every answer.

starlette's TrustedHostMiddleware knows no plain addresses, which are always right here: against DNS rebinding a name must be a known one,
and a rebound request carries a name. The token is asked for before routing, so that nothing is told of a path without it.
"""

import base64
import hmac
import re
import socket
from ipaddress import ip_address

from fastapi.security import HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esper.nissa.problems import problem
from esper.nissa.service_settings import NissaSettings

OPEN = frozenset({"/healthz", "/readyz", "/-/healthy", "/-/ready"})
"""Paths that ask for no token."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._-]+)(:\d{1,5})?")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityMiddleware:
    """Refuses a request by its headers, or hands it on. `token` None: none is asked for."""

    def __init__(self, app: ASGIApp, settings: NissaSettings, token: str | None) -> None:
        self._app = app
        names = (*settings.names, settings.host, "localhost", socket.gethostname())
        self._names = frozenset(name.lower().rstrip(".") for name in names)
        self._token = token
        self._body_limit_bytes = settings.body_limit_bytes
        self._bearer = HTTPBearer(auto_error=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that is refused itself, and hands any other on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = await self._refusal(scope) or self._app
        await answer(scope, self._limited(receive), with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._is_known(headers.get("host", "")):
            return problem(400, "unknown-host", "expected a plain address or a name in the setting nissa.names in the header Host")
        if self._token is not None and scope["path"] not in OPEN and not await self._is_authorized(scope, self._token):
            # A browser asks its user for a password where that is wanted, and shows nothing otherwise.
            scheme = "Basic" if "text/html" in headers.get("accept", "") else "Bearer"
            wanted = {"WWW-Authenticate": f'{scheme} realm="esper"'}
            return problem(401, "unauthorized", "expected the header Authorization: Bearer TOKEN", headers=wanted)
        origin = headers.get("origin")
        if scope["method"] not in _SAFE and origin is not None and origin.partition("://")[2] != headers.get("host"):
            return problem(403, "cross-site", "a page of another site may not do this")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:12]) > self._body_limit_bytes:
            return problem(413, "too-large", f"expected a body of at most {self._body_limit_bytes} bytes")
        return None

    def _limited(self, receive: Receive) -> Receive:
        """`receive`, which gives no more than the limit of a body, whatever length was declared."""
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b"")) if message["type"] == "http.request" else 0
            if taken > self._body_limit_bytes:
                raise HTTPException(413)
            return message

        return limited

    def _is_known(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        name = found["name"].lower().rstrip(".") if found else ""
        try:
            return bool(name) and (name in self._names or bool(ip_address(name.strip("[]"))))
        except ValueError:
            return False

    async def _is_authorized(self, scope: Scope, token: str) -> bool:
        found = await self._bearer(HTTPConnection(scope))
        given = _password_of(Headers(scope=scope)) if found is None else found.credentials.strip()
        # Compared in a time that does not depend on how much of it is right.
        return given is not None and hmac.compare_digest(given.encode(), token.encode())


def _password_of(headers: Headers) -> str | None:
    """The password of Basic authorization (RFC 7617), which a browser asks a person for; the name before it does not matter."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return None
