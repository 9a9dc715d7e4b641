"""What Esper writes goes into no file that somebody else put under its name."""

import os
from pathlib import Path

import pytest

from esper.durable import appended, new_file, replace_durably, rotated, write_durably


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """A file of the user's that links lead to."""
    path = tmp_path / "users"
    path.write_text("mine")
    return path


def test_a_link_loses_its_name_and_leads_nowhere(users: Path, tmp_path: Path) -> None:
    for write in (write_durably, replace_durably):
        (tmp_path / "link").symlink_to(users)
        write(tmp_path / "link", b"new")
        assert ((tmp_path / "link").read_bytes(), (tmp_path / "link").is_symlink()) == (b"new", False)
        (tmp_path / "link").unlink()
    assert users.read_text() == "mine"


def test_a_second_name_of_a_file_of_the_users_is_another_file_afterwards(users: Path, tmp_path: Path) -> None:
    (tmp_path / "name").hardlink_to(users)
    with new_file(tmp_path / "name") as file:
        file.write(b"new")
    assert users.read_text() == "mine"


def test_nothing_is_appended_through_a_link(users: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(users)
    with pytest.raises(OSError, match="symbolic links"):
        appended(tmp_path / "link")
    assert users.read_text() == "mine"


def test_what_is_appended_stands_at_the_end(tmp_path: Path) -> None:
    for text in (b"one ", b"two"):
        with appended(tmp_path / "file") as file:
            file.write(text)
    assert (tmp_path / "file").read_bytes() == b"one two"


def test_output_that_is_full_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "observer.log"
    with appended(path) as one, appended(path) as other:
        os.write(one.fileno(), b"x" * 99)
        rotated(path, (one.fileno(), other.fileno()), 100)
        os.write(other.fileno(), b"y")
        rotated(path, (one.fileno(), other.fileno()), 100)
        os.write(one.fileno(), b"new")
        os.write(other.fileno(), b"er")
    assert (path.read_bytes(), path.with_name("observer.log.1").read_bytes()) == (b"newer", b"x" * 99 + b"y")


def test_what_another_process_writes_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "observer.log"
    path.write_bytes(bytes(100))
    with appended(tmp_path / "own") as own:
        rotated(path, (own.fileno(),), 100)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["observer.log", "own"]
