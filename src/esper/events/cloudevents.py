"""A record on Kafka: CloudEvents 1.0, binary content mode. The value is the payload as it stands in the local log, the key is the run.

Every attribute is a header `ce_<name>` of UTF-8 text, in one spelling only, so that a record read back is the record that was written and
its chain can be made again. Counters are text (CloudEvents integers have 32 bits); `ce_sequence` has 20 digits, so that it orders as text;
`ce_chain` is hex. What a record does not have is left out. Headers of other names are nobody's here and pass unread: dead letters add some,
and so do tracing agents.

Sources: CloudEvents 1.0.2, "Kafka Protocol Binding" sections 3.2.1 to 3.2.3, and its extensions for sequence, partitioning and tracing.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, NoReturn

from esper.errors import DataError
from esper.events.envelope import EventId, Moment, Record, RunId, read_time, written_time

CONTENT_TYPE = "application/json"
SPEC_VERSION = "1.0"


class Attribute(NamedTuple):
    """One header of a record: the pattern that its whole text has, whether every record has it, and what it means."""

    pattern: str
    required: bool
    meaning: str


_COUNTER = "0|[1-9][0-9]{0,18}"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
_TEXT = ".+"

HEADERS: dict[str, Attribute] = {
    "ce_specversion": Attribute(r"1\.0", True, "the version of CloudEvents"),
    "content-type": Attribute("application/json", True, "what the value is"),
    "ce_id": Attribute(_TEXT, True, "`<run>/<moment>` or `<run>/heartbeat/<sequence>`; of a derived event a digest"),
    "ce_source": Attribute("/esper/[^/]+/[^/]+", True, "`/esper/<run>/<topic>`"),
    "ce_type": Attribute(_TEXT, True, "the kind of event and its version"),
    "ce_time": Attribute(_TIME, True, "UTC, six decimals; never goes back within a run's writer"),
    "ce_run": Attribute("[^/]+", True, "the run's id; also the record's key"),
    "ce_partitionkey": Attribute("[^/]+", True, "the run's id, where CloudEvents looks for it"),
    "ce_writer": Attribute(_TEXT, True, "the process that wrote it"),
    "ce_sequence": Attribute("[0-9]{20}", False, "1, 2, 3 ... per run and topic, without gaps; absent on a derived event"),
    "ce_fact": Attribute(_COUNTER, False, "1, 2, 3 ... over a run's facts; absent on telemetry and derived events"),
    "ce_moment": Attribute(_COUNTER, True, "1, 2, 3 ... per run; a heartbeat has the last one's, a derived event its cause's"),
    "ce_generation": Attribute(_COUNTER, True, "0 for what the run's writer says; one more than its cause's for a derived event"),
    "ce_incarnation": Attribute(_COUNTER, True, "1, raised each time that the run is resumed"),
    "ce_epoch": Attribute(_COUNTER, True, "the run's epoch; never goes back"),
    "ce_step": Attribute(_COUNTER, True, "optimizer steps so far; never goes back within a topic"),
    "ce_causationid": Attribute(_TEXT, False, "the id of the record that this one follows from; absent at a run's first"),
    "ce_traceparent": Attribute(_TEXT, False, "W3C trace context: one trace per adaptation, from evidence to outcome"),
    "ce_chain": Attribute("[0-9a-f]{64}", False, "sha256 over the record and the chain before it in its topic; absent on a derived event"),
}  # fmt: skip

_PATTERNS = {name: re.compile(attribute.pattern, re.ASCII) for name, attribute in HEADERS.items()}
_REQUIRED = frozenset(name for name, attribute in HEADERS.items() if attribute.required)


def headers(record: Record) -> list[tuple[str, bytes]]:
    """The headers of `record` on Kafka, without those that it has no value for; its key is the run, its value the payload."""
    texts = {
        "ce_specversion": SPEC_VERSION,
        "content-type": CONTENT_TYPE,
        "ce_id": record.id,
        "ce_source": _source(record.run, record.topic),
        "ce_type": record.type,
        "ce_time": written_time(record.time),
        "ce_run": record.run,
        "ce_partitionkey": record.run,
        "ce_writer": record.writer,
        "ce_sequence": None if record.sequence is None else f"{record.sequence:020d}",
        "ce_fact": None if record.fact is None else str(record.fact),
        "ce_moment": str(record.moment),
        "ce_generation": str(record.generation),
        "ce_incarnation": str(record.incarnation),
        "ce_epoch": str(record.epoch),
        "ce_step": str(record.step),
        "ce_causationid": record.cause,
        "ce_traceparent": record.trace,
        "ce_chain": None if record.chain is None else record.chain.hex(),
    }
    return [(name, text.encode()) for name, text in texts.items() if text is not None]


def record_from(headers: Iterable[tuple[str, bytes | None]], key: bytes | None, value: bytes | None, topic: str) -> Record:
    """The record that stands on Kafka as `key`, `value` and `headers` in `topic` (of a dead letter: the topic it was in before).

    The payload is not looked at: `esper.events.codec` does that. Raises DataError, naming the topic, the id where there is one, and the
    header, for a header that is missing, doubled, not UTF-8 or in another spelling, and for a key or source that contradicts the headers.
    """
    texts = _read(headers, topic)
    run = texts["ce_run"]
    for what, came, expected in (
        ("header ce_source", texts["ce_source"], _source(run, topic)),
        ("header ce_partitionkey", texts["ce_partitionkey"], run),
        ("its key", key, run.encode()),
    ):
        if came != expected:
            _refuse(topic, texts, f"expected {what} to be {expected!r}, got {came!r:.80}")
    if value is None:
        _refuse(topic, texts, "expected a payload, got no value (a tombstone)")
    sequence, chain = texts.get("ce_sequence"), texts.get("ce_chain")
    if texts["ce_generation"] == "0" and (sequence is None or chain is None):
        _refuse(topic, texts, f"expected header {'ce_sequence' if sequence is None else 'ce_chain'} on what a run's writer says, got none")
    return Record(
        id=EventId(texts["ce_id"]),
        run=RunId(run),
        topic=topic,
        writer=texts["ce_writer"],
        sequence=None if sequence is None else int(sequence),
        fact=int(texts["ce_fact"]) if "ce_fact" in texts else None,
        moment=Moment(int(texts["ce_moment"])),
        generation=int(texts["ce_generation"]),
        incarnation=int(texts["ce_incarnation"]),
        type=texts["ce_type"],
        time=_time(topic, texts),
        epoch=int(texts["ce_epoch"]),
        step=int(texts["ce_step"]),
        cause=EventId(texts["ce_causationid"]) if "ce_causationid" in texts else None,
        trace=texts.get("ce_traceparent"),
        chain=None if chain is None else bytes.fromhex(chain),
        data=value,
    )


def _source(run: str, topic: str) -> str:
    return f"/esper/{run}/{topic}"


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


def _time(topic: str, texts: dict[str, str]) -> datetime:
    try:
        return read_time(texts["ce_time"])
    except DataError as error:
        raise DataError(_where(topic, texts, f"header ce_time: {error}")) from error


def _where(topic: str, texts: dict[str, str], message: str) -> str:
    return f"a record in topic {topic}, id {texts.get('ce_id', 'not read')}: {message}"


def _refuse(topic: str, texts: dict[str, str], message: str) -> NoReturn:
    raise DataError(_where(topic, texts, message))
