"""docs/alerts.md shows the built-in rules as they are, every key of a rule, and examples that work."""

import json
import re
from importlib.resources import files
from pathlib import Path

from esper.events.kinds.wiring_findings import WiringFound
from esper.folds.monitoring.rules import AnomalySource, EventSource, Limit, MetricSource, Rule
from esper.observer.rule_files import KEYS, SETTINGS_TABLES, changed_settings, parse_rules, parse_watching
from esper.tolaria.wiring.findings import EXPLANATIONS

PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"
DETECTORS_PAGE = PAGE.with_name("detectors.md")
BUILTIN = parse_rules(files("esper.observer").joinpath("builtin.toml").read_text(encoding="utf-8"), "builtin.toml")


def lasting(seconds: int) -> str:
    """A duration as a rule file has it."""
    size, unit = next((size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")) if seconds % size == 0)
    return f"{seconds // size}{unit}"


def limited(limit: Limit) -> str:
    """A limit in words."""
    return "not finite" if limit.side == "not_finite" else f"{limit.side} {limit.value:g}"


def raised_by(rule: Rule) -> str:
    """What raises alerts of a rule, in words."""
    match rule.source:
        case MetricSource(metric, limit):
            said = f"`{metric}` {limited(limit)}"
        case AnomalySource(detector, metric):
            said = f"anomaly `{detector}`" + ("" if metric is None else f" in `{metric}`")
        case EventSource() as source:
            said = f"`{source.kind}`" + "".join(f", {name} {value}" for name, value in source.where)
            said += f", {source.count} within {lasting(source.within_s)} by {', '.join(source.by)}" if source.within_s else ""
    return said + (f" for {lasting(rule.for_s)}" if rule.for_s else "")


def over_when(rule: Rule) -> str:
    """What ends alerts of a rule, in words; the end of a stream or run apart."""
    source = rule.source
    ends = [f"`{kind}`" for kind in source.until] if isinstance(source, EventSource) else []
    if isinstance(source, MetricSource) and source.limit.side != "not_finite" and source.limit.clear != source.limit.value:
        ends.append(f"{'at most' if source.limit.side == 'above' else 'at least'} {source.limit.clear:g}")
    if rule.keep_s:
        ends.append(f"{lasting(rule.keep_s)} later")
    return ", ".join(ends) or ("the run ends" if isinstance(source, EventSource) else "it is over")


def table() -> str:
    """The table of the built-in rules, row by row."""
    rows = [f"| {rule.name} | {rule.severity} | `{rule.topic}` | {raised_by(rule)} | {over_when(rule)} |" for rule in BUILTIN]
    return "\n".join(("| rule | severity | topic | raised by | over when |", "|---|---|---|---|---|", *rows))


def settings_of(page: Path) -> list[tuple[str, str]]:
    """The keys and defaults that a page's table of settings has."""
    (section,) = re.findall(r"\| key \| default \| meaning \|\n\|---\|---\|---\|\n(.*?)\n\n", page.read_text(), flags=re.DOTALL)
    return re.findall(r"^\| `([a-z_.]+)` \| `(.+?)` \|", section, flags=re.MULTILINE)


def test_the_page_shows_the_built_in_rules_as_they_are() -> None:
    assert table() in PAGE.read_text()


def test_the_page_explains_every_key_of_a_rule_and_no_other() -> None:
    (section,) = re.findall(r"\| key \| of rules about \| meaning \|\n\|---\|---\|---\|\n(.*?)\n\n", PAGE.read_text(), flags=re.DOTALL)
    assert sorted(re.findall(r"^\| `([a-z_]+)`", section, flags=re.MULTILINE)) == sorted(KEYS)


def test_the_examples_of_the_page_are_rules() -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    rules, settings = (parse_watching(text, "docs/alerts.md", BUILTIN) for text in examples)
    assert [rule.name for rule in rules.rules][-2:] == ["accuracy-lost", "many-kernels-fail"]
    assert [changed.name for changed in changed_settings(settings)] == ["windows.length_s", "silence.idle_after_s"]


def test_the_example_of_the_page_about_detectors_is_one() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", DETECTORS_PAGE.read_text(), flags=re.DOTALL)
    names = [changed.name for changed in changed_settings(parse_watching(example, "docs/detectors.md", BUILTIN))]
    assert names == ["detectors.off", "detectors.losses", "detectors.spike_spreads"]


def test_the_pages_give_every_setting_with_its_default() -> None:
    tables = {name: [(key, json.dumps(value)) for key, value in part] for name, part in SETTINGS_TABLES.items()}
    assert settings_of(DETECTORS_PAGE) == tables.pop("detectors")
    assert settings_of(PAGE) == [(f"{name}.{key}", value) for name, rows in tables.items() for key, value in rows]


def test_every_built_in_rule_says_what_is_wrong_what_causes_it_and_where_to_look() -> None:
    wanted = {"summary", "cause", "look"}
    assert [rule.name for rule in BUILTIN if not wanted <= {name for name, text in rule.annotations if text}] == []


def test_the_page_has_a_line_of_the_runbook_for_every_built_in_rule() -> None:
    rows = [f"| {rule.name} | {dict(rule.annotations)['cause']} | {dict(rule.annotations)['look']} |" for rule in BUILTIN]
    head = ("| rule | what usually causes it | what to look at first |", "|---|---|---|")
    assert "\n".join((*head, *rows)) in PAGE.read_text()


def test_critical_is_harm_that_lasts_or_a_run_that_is_gone() -> None:
    assert {rule.name for rule in BUILTIN if rule.severity == "critical"} == {
        "loss-not-finite",
        "loss-relapse",
        "gradient-not-finite",
        "validation-loss-not-finite",
        "validation-relapse",
        "run-failed",
        "run-dead",
        "fold-blocked",
        "disk-low",
        "wiring-learning-rate-absurd",
        "wiring-loss-upside-down",
    }


def test_the_page_says_of_every_check_of_the_wiring_what_it_finds() -> None:
    rows = [f"| `{name}` | {one.severity} | {one.finds} |" for name, one in EXPLANATIONS.items()]
    assert "\n".join(rows) + "\n\n" in PAGE.read_text()


def test_every_check_of_the_wiring_has_a_rule_of_its_severity_and_its_words() -> None:
    rules = {rule.name: rule for rule in BUILTIN}
    for name, check in EXPLANATIONS.items():
        rule = rules[f"wiring-{name}"]
        assert (rule.severity, rule.source) == (check.severity, EventSource(WiringFound.KIND, where=(("check", name),), by=()))
        assert dict(rule.annotations) == {"summary": f"{check.finds}: {{measured}}", "cause": check.causes, "look": check.look_at}
