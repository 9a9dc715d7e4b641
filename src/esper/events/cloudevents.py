"""A record on Kafka: CloudEvents 1.0, binary content mode. The value is the payload as it stands in the local log, the key is the run.

Every attribute is a header `ce_<name>` of UTF-8 text, in one spelling only, so that a record read back is the record that was written and
its chain can be made again. Counters are text (CloudEvents integers have 32 bits); `ce_sequence` has 20 digits, so that it orders as text;
`ce_chain` is hex. An absent attribute has no header. Headers of other names are ignored: dead letters and tracing agents add some.

Sources: CloudEvents 1.0.2, "Kafka Protocol Binding" sections 3.2.1 to 3.2.3, and its extensions for sequence, partitioning and tracing.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn

from esper.errors import DataError
from esper.events.envelope import Record, read_time, written_time


class _Header(NamedTuple):
    """A header: the field of Record that it holds (None: it follows from others), the pattern of its whole text, its meaning."""

    field: str | None
    pattern: str
    required: bool
    meaning: str


_COUNTER = "0|[1-9][0-9]{0,18}"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
_TEXT = ".+"

HEADERS: dict[str, _Header] = {
    "ce_specversion": _Header(None, r"1\.0", True, "the version of CloudEvents"),
    "content-type": _Header(None, "application/json", True, "the media type of the value"),
    "ce_id": _Header("id", _TEXT, True, "`<run>/<moment>` or `<run>/heartbeat/<sequence>`; of a derived event a digest"),
    "ce_source": _Header(None, "/esper/[^/]+/[^/]+", True, "`/esper/<run>/<topic>`"),
    "ce_type": _Header("type", _TEXT, True, "the kind of event and its version"),
    "ce_time": _Header("time", _TIME, True, "UTC, six decimals; never goes back within a run's writer"),
    "ce_run": _Header("run", "[^/]+", True, "the run's id; also the record's key"),
    "ce_partitionkey": _Header(None, "[^/]+", True, "the run's id, by the name that CloudEvents gives it"),
    "ce_writer": _Header("writer", _TEXT, True, "the process that wrote it"),
    "ce_sequence": _Header("sequence", "[0-9]{20}", False, "1, 2, 3 ... per run and topic, without gaps; absent on a derived event"),
    "ce_fact": _Header("fact", _COUNTER, False, "1, 2, 3 ... over a run's facts; absent on telemetry and derived events"),
    "ce_moment": _Header("moment", _COUNTER, True, "1, 2, 3 ... per run; a heartbeat has the last one's, a derived event its cause's"),
    "ce_generation": _Header("generation", _COUNTER, True, "0 on the writer's own records; one more than its cause's on a derived event"),
    "ce_incarnation": _Header("incarnation", _COUNTER, True, "1, raised each time that the run is resumed"),
    "ce_epoch": _Header("epoch", _COUNTER, True, "the run's epoch; never goes back"),
    "ce_step": _Header("step", _COUNTER, True, "optimizer steps so far; never goes back within a topic"),
    "ce_causationid": _Header("cause", _TEXT, False, "the id of the record that this one follows from; absent at a run's first"),
    "ce_traceparent": _Header("trace", _TEXT, False, "W3C trace context: one trace per adaptation, from evidence to outcome"),
    "ce_chain": _Header("chain", "[0-9a-f]{64}", False, "sha256 over the record and its topic's last chain; absent on a derived event"),
}  # fmt: skip

_PATTERNS = {name: re.compile(attribute.pattern, re.ASCII) for name, attribute in HEADERS.items()}
_REQUIRED = frozenset(name for name, attribute in HEADERS.items() if attribute.required)
# Any: a field of Record; every other field is text as it stands.
_WRITE: dict[str | None, Callable[[Any], str]] = {"sequence": "{:020d}".format, "time": written_time, "chain": bytes.hex}
_COUNTERS = ("sequence", "fact", "moment", "generation", "incarnation", "epoch", "step")
_READ: dict[str | None, Callable[[str], Any]] = {"time": read_time, "chain": bytes.fromhex, **dict.fromkeys(_COUNTERS, int)}


def headers(record: Record) -> list[tuple[str, bytes]]:
    """The headers of `record` on Kafka, without those that it has no value for; its key is the run, its value the payload."""
    texts = _derived_headers(record.run, record.topic)
    for name, (field, *_) in HEADERS.items():
        if field is not None and (value := getattr(record, field)) is not None:
            texts[name] = _WRITE.get(field, str)(value)
    return [(name, texts[name].encode()) for name in HEADERS if name in texts]


def record_from(headers: Iterable[tuple[str, bytes | None]], key: bytes | None, value: bytes | None, topic: str) -> Record:
    """The record that stands on Kafka as `key`, `value` and `headers` in `topic` (of a dead letter: its original topic).

    The payload is not read: `esper.events.codec` does that. Raises DataError, naming the topic, the id where there is one, and the
    header, for a header that is missing, doubled, not UTF-8 or in another spelling, and for a key or source that contradicts the headers.
    """
    texts = _read(headers, topic)
    run = texts["ce_run"]
    for name, expected in _derived_headers(run, topic).items():
        if texts[name] != expected:
            _refuse(topic, texts, f"expected header {name} to be {expected!r}, got {texts[name]!r:.80}")
    if key != run.encode():
        _refuse(topic, texts, f"expected its key to be {run.encode()!r}, got {key!r:.80}")
    if value is None:
        _refuse(topic, texts, "expected a payload, got no value (a tombstone)")
    if texts["ce_generation"] == "0" and (missing := {"ce_sequence", "ce_chain"} - texts.keys()):
        _refuse(topic, texts, f"expected header {max(missing)} on a record of the run's writer, got none")
    fields: dict[str, Any] = dict.fromkeys(("sequence", "fact", "cause", "trace", "chain"))
    try:
        fields |= {field: _READ.get(field, str)(texts[name]) for name, (field, *_) in HEADERS.items() if field and name in texts}
    except DataError as error:
        raise DataError(_where(topic, texts, f"header ce_time: {error}")) from error
    return Record(topic=topic, data=value, **fields)


def _derived_headers(run: str, topic: str) -> dict[str, str]:
    return {
        "ce_specversion": "1.0",
        "content-type": "application/json",
        "ce_source": f"/esper/{run}/{topic}",
        "ce_partitionkey": run,
    }


def _read(headers: Iterable[tuple[str, bytes | None]], topic: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, value in headers:
        pattern = _PATTERNS.get(name)
        if pattern is None:
            continue
        if name in texts:
            _refuse(topic, texts, f"expected header {name} once, got it again")
        try:
            text = (value or b"").decode()
        except UnicodeDecodeError as error:
            raise DataError(_where(topic, texts, f"expected header {name} in UTF-8, got {value!r:.80}")) from error
        if pattern.fullmatch(text) is None:
            _refuse(topic, texts, f"expected header {name} to match {pattern.pattern}, got {value!r:.80}")
        texts[name] = text
    if missing := _REQUIRED - texts.keys():
        _refuse(topic, texts, f"expected header {min(missing)}, got none")
    return texts


def _where(topic: str, texts: dict[str, str], message: str) -> str:
    return f"a record in topic {topic}, id {texts.get('ce_id', 'not read')}: {message}"


def _refuse(topic: str, texts: dict[str, str], message: str) -> NoReturn:
    raise DataError(_where(topic, texts, message))
