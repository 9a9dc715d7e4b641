"""Results as documents; whatever a log holds, a document stays one."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from xml.etree import ElementTree as ET

import pytest

from esper.audit.compliance.catalogue import every_check
from esper.audit.compliance.formats import as_csv, as_html, as_junit, as_object
from esper.audit.compliance.running import CheckResult, Violation
from esper.events.envelope import RunId
from tests.synthetic import RUN

CHAIN, TAIL, ALERT = (next(check for check in every_check() if check.name == name) for name in ("log.chain", "log.tail", "alert.handled"))
FOREIGN = 'site "<script>alert(1)</script>"\x00\x1b[31m & ]]>'
RESULTS = (
    CheckResult(CHAIN, RUN, 233, 230, 0, ()),
    CheckResult(TAIL, RUN, 233, 13, 3, (Violation(5, FOREIGN), Violation(7, "=1+1"))),
    CheckResult(ALERT, RUN, 233, 0, 0, ()),
    CheckResult(CHAIN, RunId("other"), 9, 9, 0, ()),
)


def test_csv_has_a_row_for_each_violation_and_each_result_without_any() -> None:
    rows = list(csv.DictReader(StringIO(as_csv(RESULTS))))
    assert [(row["run"], row["check"], row["verdict"], row["violations"], row["moment"]) for row in rows] == [
        (RUN, "log.chain", "PASS", "0", ""),
        (RUN, "log.tail", "FAIL", "3", "5"),
        (RUN, "log.tail", "FAIL", "3", "7"),
        (RUN, "alert.handled", "INCONCLUSIVE", "0", ""),
        ("other", "log.chain", "PASS", "0", ""),
    ]


def test_no_field_of_csv_is_a_formula() -> None:
    assert [row["what"] for row in csv.DictReader(StringIO(as_csv(RESULTS)))][2] == "'=1+1"


def test_junit_has_a_suite_for_each_run() -> None:
    suites = ET.fromstring(as_junit(RESULTS))  # noqa: S314 - our own.
    counts = {suite.get("name"): (suite.get("tests"), suite.get("failures"), suite.get("skipped")) for suite in suites}
    assert counts == {RUN: ("3", "1", "1"), "other": ("1", "0", "0")}


def test_junit_names_each_violation_in_characters_that_xml_has() -> None:
    [failure] = ET.fromstring(as_junit(RESULTS)).iter("failure")  # noqa: S314 - our own.
    assert (failure.text or "").splitlines()[0] == "moment 5: " + FOREIGN.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert failure.get("message", "").startswith("3 violations: ")


def test_junit_is_xml_whatever_stands_in_the_title_of_a_check() -> None:
    strange = replace(TAIL, header=TAIL.header.model_copy(update={"title": "no \x01"}))
    [failure] = ET.fromstring(as_junit([replace(RESULTS[1], check=strange)])).iter("failure")  # noqa: S314 - our own.
    assert failure.get("message") == "3 violations: no \ufffd"


def test_html_runs_nothing_and_asks_for_nothing() -> None:
    page = as_html(RESULTS)
    assert "<script" not in page
    assert "http" not in page
    assert "&lt;script&gt;" in page
    assert "and 1 more" in page


def test_an_object_says_what_was_asked_by_version_and_digest() -> None:
    written = json.loads(json.dumps(as_object(RESULTS[1])))
    assert (written["check"], written["version"], written["digest"]) == ("log.tail", TAIL.header.version, TAIL.digest)
    assert (written["verdict"], written["up_to"], written["violations"], len(written["shown"])) == ("FAIL", 233, 3, 2)


@pytest.mark.parametrize("write", [as_csv, as_junit, as_html])
def test_no_results_are_a_document_too(write: Callable[[Sequence[CheckResult]], str]) -> None:
    assert write(())
