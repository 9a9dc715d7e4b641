"""Each check finds what it is there for, and nothing else; a whole run breaks none."""

import pytest

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.running import Verdict
from tests.audit.compliance.broken import BROKEN, Broken
from tests.audit.compliance.conftest import Found

pytestmark = pytest.mark.whole
NAMES = tuple(check.name for check in every_check())


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.name)
def test_a_run_that_is_broken_in_one_way_fails_that_check_and_no_other(broken: Found, one: Broken) -> None:
    failed = {name for name in NAMES if broken[one.name, name].verdict is Verdict.FAIL}
    assert failed == one.checks, [broken[one.name, name].shown[:2] for name in failed]


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_run_passes_every_check(broken: Found, name: str) -> None:
    assert broken["nothing is done", name].verdict is Verdict.PASS


def test_every_check_is_broken_by_some_run() -> None:
    assert set().union(*(one.checks for one in BROKEN)) == set(NAMES)


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.name)
def test_every_violation_stands_at_a_moment_of_the_run_and_says_what_was_expected(broken: Found, one: Broken) -> None:
    for name in one.checks:
        for violation in broken[one.name, name].shown:
            assert 0 <= violation.moment <= 233
            assert "expected" in violation.what or "topic" in violation.what
