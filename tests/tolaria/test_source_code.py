"""The code that trains: revision, changes, command line, and source that no version control has; secrets are masked in it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from esper.masking import MASK
from esper.tolaria.source_code import code, sources
from tests.programs import program

REPORT = """
import json, sys
from esper.tolaria.source_code import code, sources
print(json.dumps([code().model_dump(mode="json"), [one.model_dump(mode="json") for one in sources()]]))
"""


def reported(script: Path, *arguments: str) -> tuple[dict[str, object], list[dict[str, object]]]:
    """The code and the sources that `script` finds, which runs in its folder's parent."""
    done = subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True, text=True, cwd=script.parent.parent)
    said, found = json.loads(done.stdout)
    return said, found


@pytest.fixture
def repository(pytestconfig: pytest.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, as the working directory."""
    program(pytestconfig, "git")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    for words in (("init", "-q"), ("add", "a.txt"), ("commit", "-q", "-m", "one")):
        subprocess.run(("git", *identity, *words), check=True)
    return tmp_path


def test_the_revision_is_said_and_nothing_more_where_nothing_changed(repository: Path) -> None:
    head = subprocess.run(("git", "rev-parse", "HEAD"), check=True, capture_output=True, text=True, cwd=repository).stdout.strip()
    said = code()
    assert (said.revision, said.dirty_digest) == (head, None)


def test_what_was_changed_beside_the_revision_has_a_digest(repository: Path) -> None:
    (repository / "a.txt").write_text("two")
    two = code()
    (repository / "a.txt").write_text("three")
    three = code()
    assert two.revision == three.revision
    assert None not in (two.dirty_digest, three.dirty_digest)
    assert two.dirty_digest != three.dirty_digest


def test_outside_of_a_repository_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    said = code()
    assert (said.revision, said.dirty_digest) == (None, None)


def test_changes_of_a_dirty_tree_stand_as_a_diff(repository: Path) -> None:
    (repository / "a.txt").write_text("two")
    (diff,) = sources()
    assert (diff.name, diff.complete, diff.digest) == ("git diff", True, code().dirty_digest)
    assert diff.text is not None
    assert diff.text.splitlines()[-4:] == ["-one", "\\ No newline at end of file", "+two", "\\ No newline at end of file"]


@pytest.mark.usefixtures("repository")
def test_a_clean_tree_leaves_nothing_to_record() -> None:
    assert sources() == ()


def test_secrets_of_a_diff_are_masked_and_counted(repository: Path) -> None:
    (repository / "a.txt").write_text("password: hunter2\n")
    (diff,) = sources()
    assert diff.text is not None
    assert f"+password: {MASK}" in diff.text
    assert ("hunter2" in diff.text, diff.masked) == (False, 1)


def test_changes_of_binary_files_are_named_and_not_kept(repository: Path) -> None:
    (repository / "a.txt").write_bytes(b"\0" * 1000)
    (diff,) = sources()
    assert diff.text is not None
    assert "Binary files a/a.txt and b/a.txt differ" in diff.text


def test_what_is_longer_than_the_limit_is_cut_and_keeps_the_digest_of_the_whole(repository: Path) -> None:
    (repository / "a.txt").write_text("y\n" * 400_000)
    (diff,) = sources()
    assert diff.text is not None
    assert (len(diff.text), diff.complete, diff.size_bytes > 800_000, diff.digest) == (256 * 1024, False, True, code().dirty_digest)


def test_script_outside_of_a_repository_stands_whole_with_the_modules_that_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "nets.py").write_text("WIDTH = 8\n")
    (folder / "unused.py").write_text("raise SystemExit\n")
    text = 'import nets\nAPI_KEY = "abc123"\n' + REPORT
    (folder / "train.py").write_text(text)
    said, found = reported(folder / "train.py", "--token", "abc", "--lr=0.1")
    assert (said["revision"], said["argv"]) == (None, [str(folder / "train.py"), "--token", MASK, "--lr=0.1"])
    assert [(one["name"], one["text"]) for one in found] == [("train.py", text.replace("abc123", MASK)), ("nets.py", "WIDTH = 8\n")]


def test_script_that_its_repository_does_not_know_stands_beside_the_revision(repository: Path) -> None:
    folder = repository / "project"
    folder.mkdir()
    (folder / "train.py").write_text(REPORT)
    said, found = reported(folder / "train.py")
    assert said["revision"] is not None
    assert [one["name"] for one in found] == ["project/train.py"]


def test_revision_is_that_of_the_script_wherever_it_is_called(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = repository / "train.py"
    script.write_text(REPORT)
    done = subprocess.run(
        [sys.executable, str(script)], check=True, capture_output=True, text=True, cwd=tmp_path_factory.mktemp("elsewhere")
    )
    assert json.loads(done.stdout)[0]["revision"] == code().revision


def test_command_line_is_left_out_on_request() -> None:
    assert code(argv=False).argv is None


def test_argument_that_is_no_text_stands_in_the_log_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "caf\udce9"])
    assert code().argv == ("train.py", "caf?")
