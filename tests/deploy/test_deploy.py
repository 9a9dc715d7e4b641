"""Every metric and label that deploy/ names is exported, and promtool accepts rules, dashboards and what is served."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.nissa.service_settings import NissaSettings, token_of
from esper.oona.directory import Directory
from tests.nissa.test_docs import families

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "esper.rules.yml"
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
NAMING = [DEPLOY / "prometheus" / "prometheus.yml", RULES, *DASHBOARDS]
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
OTHERS_LABELS = {"job", "le"}


def expressions(path: Path) -> list[str]:
    """The queries of a dashboard."""
    return [value for key, value in walk(json.loads(path.read_text())) if key == "expr"]


def walk(value: object) -> Iterator[tuple[str, str]]:
    """Every text that stands under a name, at any depth."""
    if isinstance(value, dict):
        yield from ((key, item) for key, item in value.items() if isinstance(item, str))
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(inner)


@pytest.mark.parametrize("path", NAMING, ids=lambda path: path.name)
def test_every_metric_that_is_named_is_exported(path: Path) -> None:
    exported = {name + suffix for name, (type_, _, _) in families().items() for suffix in SUFFIXES.get(type_, ("",))}
    assert set(re.findall(r"\besper_[a-z0-9_]+", path.read_text())) <= exported


@pytest.mark.parametrize("path", NAMING, ids=lambda path: path.name)
def test_every_label_that_is_named_is_one_of_them(path: Path) -> None:
    text = path.read_text()
    grouped = {name for listed in re.findall(r"\bby \(([^)]*)\)", text) for name in listed.split(", ")}
    matched = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!=|=)\\?\"", text))
    shown = set(re.findall(r"\$labels\.(\w+)", text)) | set(re.findall(r"\{\{(\w+)\}\}", text))
    named = grouped | matched | shown
    assert named - OTHERS_LABELS <= {label for _, _, labels in families().values() for label in labels}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_a_dashboard_has_panels_with_queries_and_ids_of_their_own(path: Path) -> None:
    board = json.loads(path.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) > 0
    assert all(panel["targets"] for panel in board["panels"])


def test_promtool_accepts_configuration_and_rules(promtool: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(DEPLOY / "prometheus", tmp_path / "deploy" / "prometheus")
    token_of(NissaSettings(), Directory(tmp_path / "runs", create=True).path)
    subprocess.run([promtool, "check", "config", copied / "prometheus.yml"], check=True, capture_output=True)
    subprocess.run([promtool, "check", "rules", "--lint-fatal", RULES], check=True, capture_output=True)


def test_the_rules_fire_when_they_should_and_not_before(promtool: Path, tmp_path: Path) -> None:
    cases = (Path(__file__).parent / "rules.test.yml").read_text().replace("RULES", str(RULES))
    (tmp_path / "rules.test.yml").write_text(cases)
    done = subprocess.run([promtool, "test", "rules", tmp_path / "rules.test.yml"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_promtool_accepts_the_queries_of_a_dashboard(promtool: Path, tmp_path: Path, path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": expression} for number, expression in enumerate(expressions(path))]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))  # JSON is YAML.
    done = subprocess.run([promtool, "check", "rules", file], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
