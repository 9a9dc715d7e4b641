"""Derived records are followed from their start until nothing more can come, and history that nobody asks for is passed over."""

from pathlib import Path

import pytest

from esper.events.envelope import RunId
from esper.oona.directory import Directory
from esper.oona.file import OBSERVED_FILE
from esper.oona.observed import Observed
from esper.oona.observed_follower import DerivedFollower
from tests.nissa.samples import anomaly

RUN = RunId("01900000-0000-7000-8000-000000000001")


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    (tmp_path / RUN).mkdir()
    return Directory(tmp_path)


def observed(directory: Directory, *identities: str, seal: bool = False) -> None:
    with Observed(directory.path / RUN, RUN) as writing:
        writing.save([anomaly(RUN, identity) for identity in identities])
        if seal:
            assert writing.seal()


def came(follower: DerivedFollower) -> list[str]:
    return [record.id for _, records in follower.poll(frozenset({RUN})) for record in records]


def test_what_stands_there_and_what_comes_is_brought_once(directory: Directory) -> None:
    observed(directory, "a", "b")
    follower = DerivedFollower(directory)
    assert [came(follower), came(follower)] == [["a", "b"], []]
    observed(directory, "c")
    assert [came(follower), came(follower)] == [["c"], []]


def test_a_run_that_was_settled_before_is_history(directory: Directory) -> None:
    observed(directory, "a", seal=True)
    assert came(DerivedFollower(directory)) == []


def test_a_settled_run_that_is_observed_again_brings_what_is_new(directory: Directory) -> None:
    observed(directory, "a", seal=True)
    follower = DerivedFollower(directory)
    assert came(follower) == []
    observed(directory, "b")
    assert came(follower) == ["b"]


def test_a_run_that_settles_while_it_is_followed_is_read_to_its_end(directory: Directory) -> None:
    observed(directory, "a")
    follower = DerivedFollower(directory)
    assert came(follower) == ["a"]
    observed(directory, "b", seal=True)
    assert came(follower) == ["b"]


OTHER = RunId("01900000-0000-7000-8000-000000000002")


def test_a_damaged_file_leaves_the_others_alone_and_is_read_once_it_is_whole(directory: Directory) -> None:
    (directory.path / OTHER).mkdir()
    (directory.path / OTHER / OBSERVED_FILE).write_bytes(b"no SQLite file" * 1000)
    observed(directory, "a")
    follower = DerivedFollower(directory)
    assert came(follower) == ["a"]
    assert follower.unreadable == {OTHER}
    (directory.path / OTHER / OBSERVED_FILE).unlink()
    with Observed(directory.path / OTHER, OTHER) as writing:
        writing.save([anomaly(OTHER, "b")])
    assert [record.id for _, records in follower.poll(frozenset({OTHER})) for record in records] == ["b"]
    assert follower.unreadable == frozenset()


def test_a_run_that_nobody_observed_brings_nothing(directory: Directory) -> None:
    assert came(DerivedFollower(directory)) == []
