"""A kept list of runs: what is new, what changed and what is gone shows; what is sealed is described once."""

import os
from pathlib import Path

import pytest

from esper.events.envelope import RunId
from esper.history.catalog import listed
from esper.history.run_list import RunList
from esper.oona.directory import Directory
from tests.synthetic import RUN, write_run

OTHER = RunId("01900000-0000-7000-8000-000000000002")


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    directory = Directory(tmp_path)
    write_run(directory)
    return directory


def test_lines_are_those_of_the_shell(directory: Directory) -> None:
    write_run(directory, run=OTHER, finish=False, until_epoch=2, telemetry=False)
    assert list(RunList(directory).lines()) == list(listed(directory))


def test_a_name_is_known_as_soon_as_its_log_stands(directory: Directory) -> None:
    runs = RunList(directory)
    assert list(runs.names()) == [RUN]
    with directory.create(OTHER):
        assert list(runs.names(afresh=True)) == [RUN, OTHER]


def test_a_log_that_comes_into_a_folder_that_was_listed_before_is_known_at_once(directory: Directory) -> None:
    runs = RunList(directory)
    (directory.path / OTHER).mkdir()
    assert list(runs.names()) == [RUN]
    (directory.path / OTHER / "run.sqlite").touch()
    assert list(runs.names()) == [RUN, OTHER]


def test_a_run_that_grew_is_described_anew(directory: Directory) -> None:
    runs = RunList(directory)
    with directory.create(OTHER):
        before = runs.line(OTHER)
    after = runs.line(OTHER)
    assert before is not None
    assert after is not None
    assert (before.standing, after.standing) == ("live", "interrupted")


def test_a_sealed_run_is_not_read_again(directory: Directory) -> None:
    runs = RunList(directory)
    first = runs.line(RUN)
    os.truncate(directory.path / RUN / "run.sqlite", 0)
    assert runs.line(RUN) is first


def test_a_run_without_a_log_is_none(directory: Directory) -> None:
    (directory.path / OTHER).mkdir()
    assert RunList(directory).line(OTHER) is None
    assert list(RunList(directory).names()) == [RUN]
