"""Pages for people: what this service is and what it has, and its API. HTML without scripts, made for each request.

What stands in a log is escaped. The style is a file of its own: the Content-Security-Policy lets no page bring a style or a script with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from fastapi import APIRouter, Request, Response

from esper.events.kinds.accountability import AlertAcknowledged
from esper.folds.monitoring.origin import origin_words
from esper.history.run_list import RunSummary
from esper.nissa.backend import ByBackend
from esper.words import NOTHING, plural, shown, when

_MOST_RUNS = 50
_STYLE = """\
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
nav a { margin-right: 1.5rem; }
code { font-size: 0.95em; }
.critical, .failed, .unreadable { color: #d33; font-weight: 600; }
.warning, .interrupted { color: #b70; }
.time { white-space: nowrap; }
.live { color: #283; font-weight: 600; }
.wide { overflow-x: auto; }
"""
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="/style.css">
</head>
<body>
{body}
</body>
</html>
"""
_LINKS = (
    ("/docs", "the API, described"),
    ("/api/v1/runs", "runs as JSON"),
    ("/api/v1/alerts", "alerts as JSON"),
    ("/metrics", "metrics for Prometheus"),
    ("/api/v1/status", "state of this service"),
)
page_routes = APIRouter(include_in_schema=False)


@page_routes.get("/")
def index(request: Request, backend: ByBackend) -> Response:
    """The first page: what this is, the alerts that fire, the newest runs, and where everything else is."""
    firing, runs = backend.metrics.firing(), backend.run_list.lines()
    alerts = [
        (
            (one.event.severity, one.event.severity),
            (None, one.event.rule),
            (None, one.event.annotations.get("summary") or NOTHING),
            (None, NOTHING if one.event.origin is None else origin_words(one.event.origin)),
            (None, _run_link(one.record.run)),
            ("time", _time(one.event.since)),
            (None, _taken_over(backend.acknowledged(one))),
        )
        for one in firing
    ]
    body = [
        "<h1>Esper</h1>",
        f"<p>Trainings of networks that grow, as their log in <code>{escape(str(backend.run_list.path))}</code> has them.</p>",
        f"<p>Version {escape(request.app.version)} · {when(datetime.now(UTC))} UTC</p>",
        f"<nav>{''.join(_link(path, words) for path, words in _LINKS)}</nav>",
        f"<h2>Alerts: {plural(len(firing), 'fires', 'fire') if firing else 'none fires'}</h2>",
        *(_table(("severity", "rule", "what", "where", "run", "since (UTC)", "acknowledged"), alerts) if alerts else ()),
        f"<h2>{plural(len(runs), 'run')}</h2>",
        *_runs(runs),
        "<p>On the command line: <code>esper runs</code>, <code>esper show latest</code>, <code>esper alerts list</code>.</p>",
    ]
    return _page("Esper", body)


@page_routes.get("/docs")
def docs(request: Request) -> Response:
    """Every route of the API: method, path, parameters, what it gives."""
    described: Mapping[str, Any] = request.app.openapi()  # Any: OpenAPI's own form, which FastAPI made.
    body = [
        "<h1>The API of Esper</h1>",
        f"<p>{escape(described['info']['description'])}</p>",
        f"<nav>{_link('/', 'back')}{_link('/api/v1/openapi.json', 'as OpenAPI, for programs')}</nav>",
    ]
    tagged: dict[str, list[_Row]] = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            parameters = [one["name"] for one in operation.get("parameters", ())] + (["a body"] if "requestBody" in operation else [])
            what = operation.get("description") or operation.get("summary", "")
            cells = (method.upper(), f"<code>{escape(path)}</code>", ", ".join(map(escape, parameters)) or NOTHING, escape(what))
            tagged.setdefault(operation.get("tags", ["other"])[0], []).append(tuple((None, _Html(cell)) for cell in cells))
    for tag, rows in tagged.items():
        body += [f"<h2>{escape(tag)}</h2>", *_table(("method", "path", "takes", "gives"), rows)]
    return _page("The API of Esper", body)


@page_routes.get("/style.css")
def style() -> Response:
    """The style of the pages."""
    return Response(_STYLE, media_type="text/css", headers={"Cache-Control": "max-age=3600"})


class _Html(str):
    """A cell that is HTML already."""

    __slots__ = ()


_Row = tuple[tuple[str | None, str], ...]
"""Cells, each with the class of its element and its text."""


def _runs(runs: Sequence[RunSummary]) -> Iterator[str]:
    if not runs:
        yield "<p>None yet: <code>esper train digits</code>.</p>"
        return
    columns = ("run", "name", "began (UTC)", "standing", "epoch", "validation loss", "parameters", "task")
    rows: list[_Row] = []
    for run in runs[:_MOST_RUNS]:
        of = "" if run.epochs is None else f" / {run.epochs:,}"
        rows.append(
            (
                (None, _run_link(run.run)),
                (None, run.name or NOTHING),
                ("time", NOTHING if run.began is None else when(run.began)),
                (run.standing, run.standing),
                ("number", f"{shown(run.epoch)}{of}"),
                ("number", shown(run.validation_loss)),
                ("number", shown(run.parameters)),
                (None, run.problem or run.task or NOTHING),
            )
        )
    yield from _table(columns, rows)
    if len(runs) > _MOST_RUNS:
        yield f"<p>{plural(len(runs) - _MOST_RUNS, 'older run')}: {_link('/api/v1/runs', 'all as JSON')}</p>"


def _table(columns: Sequence[str], rows: Sequence[_Row]) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr>'
    kinds = [kind for kind, _ in rows[0]]
    yield "".join(_cell("th", "number" if kind == "number" else None, name) for name, kind in zip(columns, kinds, strict=True))
    yield "</tr></thead><tbody>"
    for row in rows:
        yield f"<tr>{''.join(_cell('td', kind, text) for kind, text in row)}</tr>"
    yield "</tbody></table></div>"


def _cell(element: str, kind: str | None, text: str) -> str:
    style = "" if kind is None else f' class="{kind}"'
    return f"<{element}{style}>{text if isinstance(text, _Html) else escape(text)}</{element}>"


def _run_link(run: str) -> _Html:
    name = run if ":" in run else run[-6:]
    return _Html(f'<a href="/api/v1/runs/{escape(run)}">{escape(name)}</a>')


def _link(path: str, words: str) -> str:
    return f'<a href="{escape(path)}">{escape(words)}</a>'


def _taken_over(acknowledged: AlertAcknowledged | None) -> str:
    return NOTHING if acknowledged is None else f"until {_time(acknowledged.until)} by {acknowledged.by}: {acknowledged.note}"


def _time(written: str) -> str:
    return written[:19].replace("T", " ")


def _page(title: str, body: Sequence[str]) -> Response:
    return Response(_PAGE.format(title=escape(title), body="\n".join(body)), media_type="text/html")
