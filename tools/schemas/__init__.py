"""What is generated from the event kinds: a JSON Schema per kind, one of the envelope, the AsyncAPI document, the catalogue's page.

`files` is pure; run as a program (`python -m tools.schemas`), this package writes and checks what is committed.
"""

import json
from collections.abc import Mapping
from functools import cache

from esper.events.kinds import KINDS
from tools.schemas.asyncapi import document
from tools.schemas.envelope import envelope_schema
from tools.schemas.jsonschema import Json, payload_schema


@cache
def files() -> Mapping[str, str]:
    """Every generated file's name with its text: `<kind>.json`, `envelope.json` and `asyncapi.yaml` (JSON, which is YAML too)."""
    made = {f"{kind.KIND}.json": _text(payload_schema(kind)) for kind in KINDS}
    return made | {"envelope.json": _text(envelope_schema()), "asyncapi.yaml": _text(document())}


def _text(schema: Json) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
