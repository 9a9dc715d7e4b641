import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from esper.events.cloudevents import headers
from esper.events.envelope import Record
from esper.events.kinds import KINDS, kinds_of
from esper.events.topics import TOPICS
from tests.events import sample_files
from tests.events.examples import EXAMPLE
from tools.schemas.__main__ import drift, files, main

COMMITTED = Path(__file__).parents[3] / "schemas"
JSON_FILES = [*(f"{kind.KIND}.json" for kind in KINDS), "envelope.json"]
Schema = dict[str, Any]  # Any: JSON, checked by the assertions.
made = cache(files)


def schema(name: str) -> Schema:
    content: Schema = json.loads(made()[name])
    return content


@cache
def validator(name: str) -> Any:  # Any: jsonschema has no types.
    return jsonschema.Draft202012Validator(schema(name))


def test_committed_schemas_are_as_generated() -> None:
    assert drift(COMMITTED) == [], "make them anew: python -m tools.schemas --write schemas"


def test_there_is_a_file_for_every_kind_one_for_the_envelope_and_asyncapi() -> None:
    assert made().keys() == {*JSON_FILES, "asyncapi.yaml"}


@pytest.mark.parametrize("name", JSON_FILES)
def test_schema_is_valid_in_its_draft_and_says_what_it_is_of(name: str) -> None:
    content = schema(name)
    jsonschema.Draft202012Validator.check_schema(content)
    assert content["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert content["title"]
    assert content["description"]


@pytest.mark.parametrize(("kind", "payload"), sample_files.ALL, ids=sample_files.NAMES)
def test_schema_takes_every_sample(kind: str, payload: bytes) -> None:
    validator(f"{kind}.json").validate(json.loads(payload))


@pytest.mark.parametrize(("kind", "payload"), sample_files.ALL, ids=sample_files.NAMES)
def test_schema_takes_no_other_field_and_misses_every_one(kind: str, payload: bytes) -> None:
    value = json.loads(payload)
    assert not validator(f"{kind}.json").is_valid(value | {"more": 1})
    assert not any(validator(f"{kind}.json").is_valid({name: value[name] for name in value if name != left_out}) for left_out in value)


@pytest.mark.parametrize(
    "change",
    [{"mean": "1.5"}, {"mean": "nan"}, {"mean": None}, {"alpha": 1.5}, {"standard_error": -0.1}, {"n": -1}, {"purpose": "trial"}],
)
def test_schema_refuses_what_the_codec_refuses(change: Schema) -> None:
    value = json.loads(sample_files.payloads("esper.seed.evaluated.v1")[0])
    assert not validator("esper.seed.evaluated.v1.json").is_valid(value | change)


def test_schema_marks_volatile_fields_and_references() -> None:
    completed = schema("esper.epoch.completed.v1.json")
    assert {name for name, field in completed["properties"].items() if field.get("x-volatile")} == {"duration_s", "samples_per_s"}
    assert schema("esper.decision.made.v1.json")["properties"]["evidence"]["items"]["x-reference"] is True


def test_schema_describes_fields_by_their_docstrings() -> None:
    properties = schema("esper.run.started.v1.json")["properties"]
    assert properties["rng_seed"]["description"] == "The number that every random stream of the run begins from."


RECORD = EXAMPLE._replace(
    type="esper.run.started.v1",
    trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    chain=bytes(32),
    data=b"{}",
)
DERIVED = RECORD._replace(sequence=None, fact=None, generation=1, trace=None, chain=None)


@pytest.mark.parametrize("record", [RECORD, DERIVED])
def test_envelope_takes_the_headers_of_a_record(record: Record) -> None:
    validator("envelope.json").validate({name: value.decode() for name, value in headers(record)})


@pytest.mark.parametrize("change", [{"ce_sequence": "3"}, {"ce_epoch": 2}, {"ce_time": "2026-03-01"}, {"ce_chain": "0"}])
def test_envelope_refuses_other_spellings(change: Schema) -> None:
    assert not validator("envelope.json").is_valid({name: value.decode() for name, value in headers(RECORD)} | change)


@cache
def asyncapi() -> Schema:
    return schema("asyncapi.yaml")


def references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        yield from [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def target(reference: str) -> object:
    if reference.startswith("./"):
        return made()[reference.removeprefix("./")]
    found: object = asyncapi()
    for step in reference.removeprefix("#/").split("/"):
        assert isinstance(found, dict)
        found = found[step]
    return found


def test_asyncapi_has_the_sections_of_its_version() -> None:
    assert asyncapi()["asyncapi"] == "3.0.0"
    assert asyncapi().keys() == {"asyncapi", "info", "defaultContentType", "channels", "operations", "components"}
    assert {"title", "version"} <= asyncapi()["info"].keys()


def test_asyncapi_points_nowhere_that_is_not() -> None:
    assert all(target(reference) for reference in references(asyncapi()))


def test_asyncapi_has_a_channel_and_dead_letters_for_every_topic() -> None:
    assert asyncapi()["channels"].keys() == TOPICS.keys() | {f"{topic}.dead-letter" for topic in TOPICS}
    assert {name: channel["address"] for name, channel in asyncapi()["channels"].items()} == {name: name for name in asyncapi()["channels"]}


@pytest.mark.parametrize("topic", TOPICS)
def test_asyncapi_channel_takes_the_kinds_of_its_topic(topic: str) -> None:
    messages = asyncapi()["channels"][topic]["messages"]
    assert messages == {kind.KIND: {"$ref": f"#/components/messages/{kind.KIND}"} for kind in kinds_of(topic)}


def test_asyncapi_message_has_the_payload_of_its_kind_the_headers_and_the_run_as_key() -> None:
    message = asyncapi()["components"]["messages"]["esper.run.started.v1"]
    (trait,) = message["traits"]
    record = target(trait["$ref"])
    assert isinstance(record, dict)
    assert message["payload"]["schema"] == {"$ref": "./esper.run.started.v1.json"}
    assert record["headers"]["schema"] == {"$ref": "./envelope.json"}
    assert record["bindings"]["kafka"]["key"] == {"type": "string", "description": "The run's id."}


@pytest.mark.parametrize(
    ("channel", "retention_ms"),
    [("system.events.run", -1), ("telemetry.training.steps", 259_200_000), ("system.events.run.dead-letter", 2_592_000_000)],
)
def test_asyncapi_channel_says_how_long_kafka_keeps_it(channel: str, retention_ms: int) -> None:
    assert asyncapi()["channels"][channel]["bindings"]["kafka"]["topicConfiguration"]["retention.ms"] == retention_ms


def test_asyncapi_operations_name_their_channel_and_direction() -> None:
    directions = {operation["channel"]["$ref"]: operation["action"] for operation in asyncapi()["operations"].values()}
    assert directions == {f"#/channels/{topic}": "send" for topic in TOPICS}


def test_check_lists_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--write", str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "esper.run.started.v1.json").write_text("{}")
    (tmp_path / "esper.run.started.v0.json").write_text("{}")
    (tmp_path / "envelope.json").unlink()
    assert main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "envelope.json: missing",
        "esper.run.started.v0.json: no such kind",
        "esper.run.started.v1.json: differs",
    ]


def test_write_makes_a_directory_as_generated(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "schemas"
    main(["--write", str(directory)])
    (directory / "esper.run.started.v0.json").write_text("{}")
    main(["--write", str(directory)])
    assert drift(directory) == []


def test_check_of_a_directory_that_is_not_there_lists_every_file(tmp_path: Path) -> None:
    assert len(drift(tmp_path / "none")) == len(made())
