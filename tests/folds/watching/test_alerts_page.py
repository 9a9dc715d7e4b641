"""docs/alerts.md shows the built-in rules as they are, every key of a rule, and examples that work."""

import re
from importlib.resources import files
from pathlib import Path

from esper.folds.watching.rule_files import KEYS, parse_rules
from esper.folds.watching.rules import AnomalySource, EventSource, Limit, MetricSource, Rule

PAGE = Path(__file__).parents[3] / "docs" / "alerts.md"
BUILTIN = parse_rules(files("esper.folds.watching").joinpath("builtin.toml").read_text(encoding="utf-8"), "builtin.toml")


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


def test_the_page_shows_the_built_in_rules_as_they_are() -> None:
    assert table() in PAGE.read_text()


def test_the_page_explains_every_key_of_a_rule_and_no_other() -> None:
    (section,) = re.findall(r"\| key \| of rules about \| meaning \|\n\|---\|---\|---\|\n(.*?)\n\n", PAGE.read_text(), flags=re.DOTALL)
    assert sorted(re.findall(r"^\| `([a-z_]+)`", section, flags=re.MULTILINE)) == sorted(KEYS)


def test_the_examples_of_the_page_are_rules() -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert [rule.name for text in examples for rule in parse_rules(text, "docs/alerts.md", BUILTIN)][-2:] == [
        "accuracy-lost",
        "many-kernels-fail",
    ]


def test_every_built_in_rule_says_in_a_summary_what_is_wrong() -> None:
    assert [rule.name for rule in BUILTIN if not dict(rule.annotations).get("summary")] == []
