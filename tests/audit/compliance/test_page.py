"""docs/compliance.md says what the checks are and what they find; every statement of it is made again here."""

import re

import pytest

from esper.audit.compliance.check_files import parse_check
from esper.audit.compliance.running import run_checks
from esper.audit.projection import Projection
from tests.audit.compliance.page import PAGE, checks_table, part_of, tampering_table
from tests.audit.compliance.tampering import KINDS
from tests.synthetic import RUN

TEXT = PAGE.read_text()


def test_the_table_of_checks_is_as_generated() -> None:
    assert part_of(TEXT, "checks") == checks_table()


@pytest.mark.whole
@pytest.mark.long
def test_the_checks_find_what_the_table_of_tampering_says() -> None:
    assert part_of(TEXT, "tampering").splitlines() == tampering_table().splitlines()


def test_thirty_ways_to_tamper_are_tried_at_least() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 30


def test_the_example_of_a_check_is_one(projection: Projection) -> None:
    found = re.search(r"```sql\n(-- name.*?)```", TEXT, re.DOTALL)
    assert found
    [result] = run_checks(projection.connection, [parse_check(found[1], "house.slow_epochs.sql")], [RUN])
    assert (result.verdict, result.population) == ("PASS", 13)
