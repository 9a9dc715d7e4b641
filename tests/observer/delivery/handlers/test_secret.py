"""Secrets come from files and the environment, and are shown by nothing."""

from pathlib import Path

import pytest

from esper.errors import SettingsError
from esper.observer.delivery.handlers.secret import LONGEST_BYTES, Secret, SecretSource, readable


def test_a_secret_is_read_from_a_file_without_the_lines_end(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b" hush hush \r\n")
    assert SecretSource(file=file).read().reveal() == " hush hush "


def test_a_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESPER_TEST_SECRET", "hush")
    assert SecretSource(variable="ESPER_TEST_SECRET").read().reveal() == "hush"


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", "found 0"), (b"x" * (LONGEST_BYTES + 1), "found 65537"), (b"\xffhush", "as UTF-8")]
)
def test_what_is_no_secret_is_refused_without_being_shown(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=expected) as refused:
        SecretSource(file=file).read()
    assert str(file) in str(refused.value)
    assert "hush" not in str(refused.value)


def test_where_there_is_nothing_the_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        SecretSource(file=tmp_path / "nothing").read()
    with pytest.raises(SettingsError, match="ESPER_TEST_NOTHING"):
        SecretSource(variable="ESPER_TEST_NOTHING").read()


def test_a_secret_is_not_shown() -> None:
    assert "hush" not in f"{Secret('hush')} {Secret('hush')!r} {[Secret('hush')]}"
    assert readable("it is hush-hush.", [Secret("hush-hush")]) == "it is ***."
    assert readable("a short one hides nothing", [Secret("a")]) == "a short one hides nothing"
