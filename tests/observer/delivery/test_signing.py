"""The signature: what `sign` makes, `verify` takes, and nothing else; and a receiver can do it with what the page says alone."""

import hashlib
import hmac

import pytest

from esper.observer.delivery.signing import TOLERANCE_S, sign, verify

BODY = '{"summary": "the loss is ∞"}'.encode()
KEY = "hush-hush"
AT_S = 1772366400.7


def test_a_signature_is_an_hmac_over_time_and_body() -> None:
    expected = hmac.new(b"hush-hush", b"1772366400." + BODY, hashlib.sha256).hexdigest()
    assert sign(BODY, KEY, AT_S) == f"t=1772366400,v1={expected}"


@pytest.mark.parametrize("away_s", [-TOLERANCE_S + 1, 0, TOLERANCE_S - 1])
def test_a_signature_of_now_is_taken(away_s: float) -> None:
    assert verify(sign(BODY, KEY, AT_S), BODY, KEY, AT_S + away_s)


@pytest.mark.parametrize("away_s", [-TOLERANCE_S - 1, TOLERANCE_S + 1, 1e9])
def test_a_signature_of_another_time_is_refused(away_s: float) -> None:
    assert not verify(sign(BODY, KEY, AT_S), BODY, KEY, AT_S + away_s)


def test_another_body_secret_or_time_is_refused() -> None:
    header = sign(BODY, KEY, AT_S)
    assert not verify(header, BODY + b" ", KEY, AT_S)
    assert not verify(header, BODY, "hush", AT_S)
    assert not verify(header.replace("t=1772366400", "t=1772366401"), BODY, KEY, AT_S)


@pytest.mark.parametrize(
    "header", ["", "t=,v1=", "v1=00", "t=1772366400", "t=\u0661,v1=" + "0" * 64, "t=1772366400,v1=" + "0" * 63, "x" * 10_000]
)
def test_what_is_no_signature_is_refused(header: str) -> None:
    assert not verify(header, BODY, KEY, AT_S)
