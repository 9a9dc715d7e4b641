"""Every attack of the table against the door."""

import json
import subprocess
import sys

import pytest

from tests.audit.door.arena import Arena
from tests.audit.door.attacks import ATTACKS
from tests.audit.door.fight import LATE_S, LIMITS, Fought, Result, fight

ONE_OF_EACH = [next(attack for attack in ATTACKS if attack.family == family) for family in dict.fromkeys(a.family for a in ATTACKS)]


@pytest.fixture(scope="module")
def result() -> Result:
    """What came of all attacks, in a process whose children are these alone."""
    ended = subprocess.run([sys.executable, "-m", "tests.audit.door.fight"], capture_output=True, check=True)
    attacks, *rest = json.loads(ended.stdout)
    return Result([Fought(*attack) for attack in attacks], *rest)


def test_there_are_three_hundred_attacks_and_each_has_a_name_of_its_own() -> None:
    assert len(ATTACKS) >= 300
    assert len({(attack.family, attack.name) for attack in ATTACKS}) == len(ATTACKS)


def test_an_attack_of_each_family_ends_as_the_table_says(place: Arena) -> None:
    found = fight(place, ONE_OF_EACH)
    expected = [(attack.family, attack.name, attack.outcome) for attack in ONE_OF_EACH]
    assert [(one.family, one.name, one.outcome) for one in found.attacks] == expected
    assert [one for one in found.attacks if one.leaked] == []
    assert not found.changed
    assert found.visits == 0


class TestEveryAttack:
    pytestmark = [pytest.mark.whole, pytest.mark.long, pytest.mark.timeout(600)]  # noqa: RUF012 - pytest reads it.

    def test_it_ends_as_the_table_says(self, result: Result) -> None:
        expected = [(attack.family, attack.name, attack.outcome) for attack in ATTACKS]
        assert [(one.family, one.name, one.outcome) for one in result.attacks] == expected

    def test_it_learns_no_secret(self, result: Result) -> None:
        assert [one for one in result.attacks if one.leaked] == []

    def test_it_changes_nothing(self, result: Result) -> None:
        assert not result.changed

    def test_it_talks_to_nobody(self, result: Result) -> None:
        assert result.visits == 0

    def test_it_lives_no_longer_than_its_limit_and_a_second(self, result: Result) -> None:
        assert [one for one in result.attacks if one.over_s > LATE_S] == []

    def test_it_has_no_more_memory_than_its_limit(self, result: Result) -> None:
        assert result.peak_mb <= result.idle_mb + LIMITS.memory_mb

    def test_it_is_answered_without_a_crash(self, result: Result) -> None:
        assert [one for one in result.attacks if "it ended with" in one.words] == []
