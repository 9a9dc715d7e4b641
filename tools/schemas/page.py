"""The generated part of docs/events.md: every topic, every kind with its fields, every part and list of words that they use."""

import re
from collections.abc import Sequence

from esper.errors import DataError
from esper.events.cloudevents import HEADERS
from esper.events.kinds import KINDS, kinds_of
from esper.events.topics import TOPICS, Topic, TopicClass
from tools.schemas.jsonschema import Json, payload_schema

BEGIN = "<!-- generated: python -m tools.schemas --docs -->"
END = "<!-- end of what is generated -->"

_ANY_JSON = "#/$defs/JsonValue"


def with_catalogue(page: str) -> str:
    """`page` with the catalogue made anew between its markers; DataError when the markers are not there once each, in order."""
    match [page.count(BEGIN), page.count(END), *re.split(f"{BEGIN}.*{END}", page, flags=re.DOTALL)]:
        case [1, 1, before, after]:
            return f"{before}{BEGIN}\n\n{catalogue()}\n{END}{after}"
    raise DataError(f"expected one line {BEGIN!r} and after it one line {END!r}")


def catalogue() -> str:
    """The whole catalogue as Markdown."""
    schemas = {kind: payload_schema(kind) for kind in KINDS}
    parts: dict[str, Json] = {}
    for schema in schemas.values():
        parts |= schema.get("$defs", {})
    headers = [(f"`{name}`", "always" if header.required else "where there is one", header.meaning) for name, header in HEADERS.items()]
    topics = [
        (f"[`{topic.name}`](#{_anchor(topic.name)})", topic.kind.value, ", ".join(topic.writers), _kept(topic), topic.meaning)
        for topic in TOPICS.values()
    ]
    sections = ["## Headers on Kafka", _table(("header", "present", "meaning"), headers)]
    sections += ["## Topics", _table(("topic", "class", "written by", "kept on Kafka", "holds"), topics)]
    for topic in TOPICS.values():
        ends = "".join(f" Its last record is a {_link(kind.__name__)}." for kind in kinds_of(topic.name) if topic.name != kind.TOPIC)
        sections += [f"## `{topic.name}`", topic.meaning + ends]
        sections += [text for kind in KINDS if topic.name == kind.TOPIC for text in _section(kind.__name__, schemas[kind], kind.KIND)]
    anywhere = [kind for kind in KINDS if kind.TOPIC not in TOPICS]
    sections += ["## In several topics", *(text for kind in anywhere for text in _section(kind.__name__, schemas[kind], kind.KIND))]
    sections += ["## Parts", *(text for name in sorted(parts) if parts[name] for text in _section(name, parts[name]))]
    return "\n\n".join(sections) + "\n"


def _kept(topic: Topic) -> str:
    if topic.retention_h is None:
        return "for ever"
    return f"{topic.retention_h} h" if topic.kind is TopicClass.TELEMETRY else f"{topic.retention_h // 24} days"


def _section(name: str, schema: Json, kind: str | None = None) -> list[str]:
    described = "\n\n".join(" ".join(paragraph.split()) for paragraph in schema.get("description", "").split("\n\n"))
    words = "One of " + ", ".join(f"`{word}`" for word in schema["enum"]) + "." if "enum" in schema else _fields(schema)
    return [text for text in (f"### {name}", kind and f"`{kind}`", described, words) if text]


def _fields(schema: Json) -> str:
    rows = [
        (f"`{name}`", _type(field), f"{field.get('description', '')}{' *Volatile.*' if field.get('x-volatile') else ''}".strip())
        for name, field in schema["properties"].items()
    ]
    return _table(("field", "type", "meaning"), rows)


def _type(schema: Json) -> str:
    """The type that `schema` describes, in words, with a link where it is a part."""
    if "$ref" in schema:
        return _link(schema["$ref"].removeprefix("#/$defs/")) if schema["$ref"] != _ANY_JSON else "any JSON"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{word}`" for word in schema["enum"])
    match schema["type"]:
        case "array":
            item = _type(schema["items"])
            text = f"list of ({item})" if " or " in item else f"list of {item}"
        case "object":
            text = f"map of text to {_type(schema['additionalProperties'])}"
        case ["number", "string"]:
            text = "number" + _limits(schema)
        case "string" if schema.get("x-reference"):
            text = "id of a record"
        case "string":
            text = f"text like `{schema['pattern']}`" if "pattern" in schema else "text"
        case "integer":
            text = "integer" + _limits(schema)
        case name:  # KeyError: a type that no field had before.
            text = {"boolean": "true or false", "null": "null"}[name]
    return text


def _limits(schema: Json) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return ""
    return f" {low:g}..{high:g}" if high is not None else f" >= {low:g}"


def _link(name: str) -> str:
    return f"[{name}](#{_anchor(name)})"


def _anchor(heading: str) -> str:
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "-_")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
