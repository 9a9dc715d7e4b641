"""docs/nissa.md names every metric, every route and every setting, and none that there is not."""

import re
from pathlib import Path

from esper.nissa.collectors import builtin, own
from esper.nissa.collectors.collector import find_collector
from esper.nissa.metrics.family import Family
from esper.nissa.settings import NissaSettings
from tests.nissa.server import Client

PAGE = (Path(__file__).parents[2] / "docs" / "nissa.md").read_text()


def families() -> list[Family]:
    """Every metric of Esper's own."""
    return [family for path in builtin.PATHS for family in find_collector(path).families] + list(own.FAMILIES)


def test_every_metric_stands_on_the_page_as_it_is() -> None:
    rows = {f"| `{family.name}` | {family.type} | {', '.join(family.labels)} | {family.help} |" for family in families()}
    assert rows == {line for line in PAGE.splitlines() if line.startswith("| `esper_")}


def test_every_route_stands_on_the_page(finished: Client) -> None:
    described = finished.get("/api/v1/openapi.json").json["paths"]
    written = set(re.findall(r"^\| `(?:GET|POST) (/[^`?]*)", PAGE, flags=re.MULTILINE))
    assert set(described) | {"/api/v1/openapi.json"} == written


def test_every_setting_stands_on_the_page() -> None:
    written = set(re.findall(r"^\| `nissa\.([a-z_]+)`", PAGE, flags=re.MULTILINE))
    assert set(NissaSettings.model_fields) == written
