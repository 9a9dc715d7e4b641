"""One record in one line."""

from datetime import UTC, datetime

import pytest

from esper.cli.commands.log import _headings, _line, words_of
from esper.events.codec import decode_payload
from esper.events.envelope import EventId, Moment, Record, RunId
from tests.events.sample_files import ALL, NAMES


def record(kind: str, data: bytes, topic: str = "system.events.run") -> Record:
    """A record at moment 7 with this payload."""
    time = datetime(2026, 3, 1, 12, 0, 3, 125_000, tzinfo=UTC)
    return Record(EventId("x/7"), RunId("x"), topic, "trainer", 1, 1, Moment(7), 0, 1, kind, time, 2, 36, None, None, b"\0" * 32, data)


@pytest.mark.parametrize(("kind", "payload"), ALL, ids=NAMES)
def test_every_kind_that_there_is_has_words(kind: str, payload: bytes) -> None:
    words = words_of(decode_payload(kind, payload))
    assert words.strip()
    assert "\n" not in words


def test_the_columns_stand_under_their_headings() -> None:
    shown = _line(record("esper.checkpoint.pruned.v1", b'{"checkpoint":"epoch-000004","reason":"the newest 3 are kept"}'), None).plain
    assert shown == "      7     2      36  12:00:03.125  checkpoint.pruned      epoch-000004: the newest 3 are kept"
    for heading, value in (("moment", "7"), ("epoch", "2"), ("step", "36")):
        assert _headings(None).plain.index(heading) + len(heading) == shown.index(value) + len(value)


def test_a_line_is_cut_to_the_terminal() -> None:
    shown = _line(record("esper.checkpoint.pruned.v1", b'{"checkpoint":"epoch-000004","reason":"the newest 3 are kept"}'), 70)
    assert (shown.cell_len, shown.plain[-1]) == (70, "…")


def test_on_a_narrow_terminal_step_and_time_give_way_to_what_was_said() -> None:
    shown = _line(record("esper.checkpoint.pruned.v1", b'{"checkpoint":"epoch-000004","reason":"the newest 3 are kept"}'), 80).plain
    assert shown == "      7     2  checkpoint.pruned      epoch-000004: the newest 3 are kept"
    assert _headings(80).plain.split() == ["moment", "epoch", "event", "what"]


def test_a_kind_of_a_newer_version_is_shown_as_not_understood() -> None:
    shown = _line(record("esper.seed.rewound.v9", b"{}"), None).plain
    assert "seed.rewound" in shown
    assert "not understood: run x, topic system.events.run, moment 7" in shown


def test_a_decision_without_a_site_is_told() -> None:
    data = b'{"adaptation":"none","site":null,"seed":null,"confidence":0.0,"urgency":"NaN","reason":"idle","evidence":[]}'
    assert words_of(decode_payload("esper.decision.made.v1", data)) == "none, conf 0.000 urg NaN: idle [no evidence]"
