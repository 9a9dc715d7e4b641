"""docs/nissa.md names every metric, every route and every setting, and none that there is not."""

import re
from pathlib import Path

from esper.nissa.metric_definitions import COUNTERS, HISTOGRAMS, SCRAPED
from esper.nissa.service_settings import NissaSettings
from tests.nissa.server import Client

PAGE = (Path(__file__).parents[2] / "docs" / "nissa.md").read_text()


def families() -> dict[str, tuple[str, str, list[str]]]:
    """Type, help and labels of every metric of Esper's own."""
    scraped = {name: ("counter" if name.endswith("_total") else "gauge", text, [*labels]) for name, (text, labels) in SCRAPED.items()}
    counters = {name: ("counter", text, [*labels]) for name, (text, labels, _) in COUNTERS.items()}
    return scraped | counters | {name: ("histogram", text, []) for name, (text, _) in HISTOGRAMS.items()}


def test_every_metric_stands_on_the_page_as_it_is() -> None:
    rows = {f"| `{name}` | {type_} | {', '.join(labels)} | {text} |" for name, (type_, text, labels) in families().items()}
    assert rows == {line for line in PAGE.splitlines() if line.startswith("| `esper_")}


def test_every_route_stands_on_the_page(finished: Client) -> None:
    described = finished.get("/api/v1/openapi.json").json["paths"]
    written = set(re.findall(r"^\| `(?:GET|POST) (/[^`?]*)", PAGE, flags=re.MULTILINE))
    assert set(described) | {"/api/v1/openapi.json"} == written


def test_every_setting_stands_on_the_page() -> None:
    written = set(re.findall(r"^\| `nissa\.([a-z_]+)`", PAGE, flags=re.MULTILINE))
    assert set(NissaSettings.model_fields) == written
