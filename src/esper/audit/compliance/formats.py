"""Results as documents: CSV, JUnit's XML for pipelines, a page of HTML. Texts of a log are foreign, and escaped whatever they hold."""

import csv
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import StringIO
from itertools import groupby

from esper.audit.compliance.running import CheckResult, Verdict

# Characters that XML 1.0 has no way to write, section 2.2.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Programs that calculate take a field that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #ccc; padding: .3em .6em; text-align: left; vertical-align: top; }
.FAIL { color: #b00020; font-weight: bold; } .INCONCLUSIVE { color: #8a6d00; } .PASS { color: #1b6e2e; } small { color: #555; }
"""


def as_object(result: CheckResult) -> Mapping[str, object]:
    """A result as what JSON writes of it."""
    header = result.check.header
    return {
        "run": result.run,
        "check": result.check.name,
        "version": header.version,
        "digest": result.check.digest,
        "verdict": result.verdict,
        "up_to": result.up_to,
        "population": result.population,
        "violations": result.violations,
        "shown": [{"moment": violation.moment, "what": violation.what} for violation in result.shown],
        "title": header.title,
        "proves": header.proves,
        "cannot_show": header.cannot_show,
        "clauses": header.clauses,
    }


def as_csv(results: Sequence[CheckResult]) -> str:
    """A row for each violation, and one for each result without any."""
    text = StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("run", "check", "version", "digest", "verdict", "population", "violations", "moment", "what"))
    for result in results:
        place = (result.run, result.check.name, result.check.header.version, result.check.digest, result.verdict.value)
        found: list[tuple[object, str]] = [(violation.moment, violation.what) for violation in result.shown]
        for moment, what in found or [("", "")]:
            plain = f"'{what}" if what.startswith(_FORMULA) else what
            rows.writerow((*place, result.population, result.violations, moment, plain))
    return text.getvalue()


def as_junit(results: Sequence[CheckResult]) -> str:
    """A suite for each run, a case for each check; INCONCLUSIVE is skipped."""
    root = ET.Element("testsuites")
    for run, group in _by_run(results):
        counts = [result.verdict for result in group]
        suite = ET.SubElement(root, "testsuite", name=run, tests=str(len(group)))
        suite.set("failures", str(counts.count(Verdict.FAIL)))
        suite.set("skipped", str(counts.count(Verdict.INCONCLUSIVE)))
        for result in group:
            case = ET.SubElement(suite, "testcase", classname="esper.compliance", name=result.check.name)
            if result.verdict is Verdict.FAIL:
                failure = ET.SubElement(case, "failure", message=_writable(f"{result.violations} violations: {result.check.header.title}"))
                failure.text = _writable("\n".join(f"moment {one.moment}: {one.what}" for one in result.shown))
            elif result.verdict is Verdict.INCONCLUSIVE:
                ET.SubElement(case, "skipped", message="there was nothing to ask about")
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _writable(text: str) -> str:
    """`text` with a mark in the place of each character that XML cannot have."""
    return _NOT_XML.sub("\ufffd", text)


def as_html(results: Sequence[CheckResult]) -> str:
    """A page that asks for nothing from outside: a table for each run."""
    body = "\n".join(line for run, group in _by_run(results) for line in _table(run, group))
    head = f'<meta charset="utf-8"><title>Compliance checks</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><h1>Compliance checks</h1>\n{body}\n</body></html>\n'


def _table(run: str, results: Sequence[CheckResult]) -> Iterator[str]:
    yield f"<h2>Run {escape(run)}</h2>\n<table><tr><th>check</th><th>result</th><th>asked about</th><th>rule and violations</th></tr>"
    for result in results:
        header, verdict = result.check.header, result.verdict.value
        words = [
            escape(header.title),
            f"<small>Evidence for {escape('; '.join(header.clauses))}. Cannot show: {escape(header.cannot_show)}</small>",
        ]
        words += [f"moment {violation.moment}: {escape(violation.what)}" for violation in result.shown]
        if result.violations > len(result.shown):
            words.append(f"and {result.violations - len(result.shown)} more")
        name = f"{escape(header.name)} <small>v{header.version}</small>"
        yield f'<tr><td>{name}</td><td class="{verdict}">{verdict}</td><td>{result.population}</td><td>{"<br>".join(words)}</td></tr>'
    yield "</table>"


def _by_run(results: Sequence[CheckResult]) -> list[tuple[str, list[CheckResult]]]:
    ordered = sorted(results, key=lambda result: result.run)
    return [(run, list(group)) for run, group in groupby(ordered, key=lambda result: result.run)]
