"""Signature of a webhook's body: HMAC-SHA256 over a time and the body, so that a receiver knows the sender and refuses old requests.

    Esper-Signature: t=1772366400,v1=5257a869...

`t` is the time of sending in seconds since the epoch; `v1` the HMAC-SHA256 in hex digits, with the secret's UTF-8 bytes as key, of `t`, a
full stop, and the body's bytes. A receiver computes it *before* it parses the body, compares in constant time, and refuses a time more than
five minutes away; `verify` does that.
"""

import hashlib
import hmac
import re

HEADER = "Esper-Signature"
TOLERANCE_S = 300.0

_WRITTEN = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})", re.ASCII)


def sign(body: bytes, secret: str, at_s: float) -> str:
    """The header's value for `body`, sent at `at_s` seconds since the epoch."""
    at = str(int(at_s))
    return f"t={at},v1={_digest(body, secret, at)}"


def verify(header: str, body: bytes, secret: str, now_s: float, tolerance_s: float = TOLERANCE_S) -> bool:
    """True where `header` was made for `body` with `secret`, at most `tolerance_s` from `now_s`."""
    written = _WRITTEN.fullmatch(header)
    if written is None:
        return False
    at, digest = written.groups()
    return abs(now_s - int(at)) <= tolerance_s and hmac.compare_digest(digest, _digest(body, secret, at))


def _digest(body: bytes, secret: str, at: str) -> str:
    return hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
