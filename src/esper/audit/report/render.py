"""A report as HTML and as JSON: the same content. HTML is one file without scripts and without anything that would be fetched."""

import re
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from pydantic_core import to_json as json_bytes

from esper.audit.report.making import AnswerTable, Checked, Report
from esper.audit.report.timeline_drawing import LEFT, RIGHT, WIDTH
from esper.words import plural, shown, when

_TEMPLATES = ("report.html", "report.css", "timeline.svg")
_DIGEST = re.compile(r"[0-9a-f]{40,}")
_SHORT = 22
_WORDS = (
    ("site, slot", "a layer of the network where seeds may live, and a numbered place for one of them"),
    ("seed", "a small module beside a site's layer that may become part of the network"),
    ("germinate", "start a seed; it learns without influence on the network"),
    ("graft", "blend a seed into the network's output"),
    ("fossilize", "make a seed part of the network for good"),
    ("cull, cancel", "remove a seed; stop one before it touched the network"),
    ("gate", "the limits that a decision must pass before it becomes a command"),
    ("rollback", "a return to a checkpoint after the loss became unstable"),
    ("moment", "the number of a record within its run"),
    ("chain", "a digest of each record over its content and its predecessor's digest"),
)
"""Words of a report that its reader may not know."""


def html_of(report: Report) -> str:
    """The report as a page that reads on a screen, on a phone and on paper. Whatever a log says is text in it, never markup."""
    environment = Environment(
        loader=DictLoader({name: (files("esper.audit.report") / "templates" / name).read_text(encoding="utf-8") for name in _TEMPLATES}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "when": when, "tally": _tally, "looks": _looks}
    environment.globals |= {"left": LEFT, "right": WIDTH - RIGHT, "width": WIDTH, "plural": plural, "words": _WORDS}
    return environment.get_template("report.html").render(report=report, esper=version("esper-training"))


def json_of(report: Report) -> str:
    """The report as one JSON object; `version` is that of its shape. Numbers that are not finite are the log's own words."""
    return json_bytes({"format": "esper.report", "esper": version("esper-training"), **_fields(report)}, inf_nan_mode="strings").decode()


def _fields(report: Report) -> dict[str, object]:
    named = {name: getattr(report, name) for name in report.__dataclass_fields__ if name != "timeline"}
    return named | {"heading": dict(report.heading)}


def _tally(checks: tuple[Checked, ...]) -> str:
    """The number of checks by result."""
    results = [check.result for check in checks]
    return (
        ", ".join(f"{results.count(result)} {result}" for result in ("PASS", "FAIL", "INCONCLUSIVE") if result in results)
        or "none were run"
    )


def _looks(table: AnswerTable) -> list[str]:
    """The alignment of each column: by what is in it, so that all of its cells are set alike."""
    return [_look([value for value in column if value is not None]) for column in zip(*table.rows, strict=True)]


def _look(values: list[object]) -> str:
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "number"
    if values and all(isinstance(value, datetime) for value in values):
        return "time"
    if values and all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in values):
        return "digest"
    return "short" if all(len(shown(value)) <= _SHORT for value in values) else "text"
