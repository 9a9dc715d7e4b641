"""What Esper writes goes into no file that somebody else put under its name."""

import os
from pathlib import Path

import pytest

from esper.durable import appended, new_file, remove_folder, replace_durably, replace_folder, rotated, write_durably


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


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, rename = tmp_path / "within" / "folder", os.rename
    replace_folder(path, {"file": b"old"})

    def full(source: str, target: str, **folders: int) -> None:
        if source == ".folder.partial":
            raise OSError("no room")
        rename(source, target, **folders)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="no room"):
        replace_folder(path, {"file": b"new"})
    assert [(one, (one / "file").read_bytes()) for one in path.parent.iterdir()] == [(path, b"old")]


def test_a_folder_that_a_killed_process_left_under_another_name_goes_when_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "within" / "folder"
    replace_folder(path, {"file": b"old"})
    path.rename(path.with_name(".folder.old"))
    for content in (b"new", b"newer"):
        replace_folder(path, {"file": content})
        assert [(one, (one / "file").read_bytes()) for one in path.parent.iterdir()] == [(path, content)]


@pytest.mark.parametrize("linked", ["run", "run/within", "run/within/folder"])
def test_no_folder_is_removed_or_replaced_through_a_link(tmp_path: Path, linked: str) -> None:
    path = tmp_path / "run" / "within" / "folder"
    path.parent.parent.mkdir()
    replace_folder(path, {"file": b"mine"})
    (tmp_path / linked).rename(tmp_path / "users")
    (tmp_path / linked).symlink_to(tmp_path / "users")
    remove_folder(path)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        replace_folder(path, {"file": b"new"})
    assert (path / "file").read_bytes() == b"mine"
