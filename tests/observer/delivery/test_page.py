"""docs/delivery.md names every key that a settings file may have, and its examples work."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

import pytest

from esper.observer.delivery.delivery_file import AlertmanagerSettings, AppriseSettings, DeliverySettings, HandlerSettings, parse_delivery
from esper.observer.delivery.outbox import _LONGEST_BACKOFF_S, _QUIET_S, _SUMMARY_AT_LATEST_S, Limits, pause_s
from esper.observer.delivery.signing import sign

PAGE = (Path(__file__).parents[3] / "docs" / "delivery.md").read_text()


def examples(language: str) -> list[str]:
    """The page's blocks of code of a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def documented() -> set[str]:
    """Every key in the page's table."""
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE, flags=re.MULTILINE)
    return set(re.findall(r"`([a-z_]+)`", " ".join(rows)))


def test_every_key_stands_on_the_page_and_no_other() -> None:
    models = (DeliverySettings, *get_args(HandlerSettings))
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    assert documented() == keys - {"handlers"}


def test_the_example_is_a_file_that_is_taken() -> None:
    [text] = examples("toml")
    assert [handler.name for handler in parse_delivery(text, "delivery.md").handlers] == ["team", "alertmanager", "night"]


@pytest.mark.parametrize("example", examples("python"), ids=["with esper", "without"])
def test_a_receiver_that_does_as_the_page_says_takes_what_is_ours_and_nothing_else(example: str) -> None:
    names: dict[str, object] = {}
    exec(example, names)  # noqa: S102 - the page's own example.
    is_ours = cast("Callable[[str, bytes, str, float], bool]", names["is_ours"])
    header = sign(b"body", "hush", 1772366400.0)
    assert is_ours(header, b"body", "hush", 1772366500.0)
    assert not is_ours(header, b"Body", "hush", 1772366500.0)
    assert not is_ours(header, b"body", "hash", 1772366500.0)
    assert not is_ours(header, b"body", "hush", 1772366800.0)
    assert not is_ours("t=x,v1=y", b"body", "hush", 1772366500.0)


def test_the_numbers_on_the_page_are_those_in_the_code() -> None:
    limits = Limits()
    total_s = sum(pause_s(attempts, limits.first_pause_s, None, lambda: 1.0) for attempts in range(1, limits.attempts))
    assert 8.5 < total_s / 60 < 9.5
    assert f"from {limits.first_pause_s:g} s to {_LONGEST_BACKOFF_S:g} s" in PAGE
    assert f"for {_QUIET_S:g} s, at the latest after {_SUMMARY_AT_LATEST_S:g} s" in PAGE
    assert AlertmanagerSettings.model_fields["resend_s"].default == 60.0
    assert AppriseSettings.model_fields["timeout_s"].default == 30.0
