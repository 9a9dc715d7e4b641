"""`esper sign-off` and `esper hold`."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from esper.cli.commands.sign_off_and_hold import _day
from esper.errors import SettingsError
from esper.events.kinds.run import RunFinished
from esper.history.trail import end_of, holds_in_force
from esper.oona.directory import Directory
from tests.cli.conftest import Esper
from tests.synthetic import RUN, write_run
from tests.trails import sign_offs_of

SIGN_OFF = ("sign-off", "latest", "--by", "Grace Example", "--role", "model owner", "--note", "accuracy is enough")
HOLD = ("hold", "latest", "--by", "Ada", "--why", "an inquiry")
TODAY = datetime(2026, 3, 2, tzinfo=UTC).date()


@pytest.fixture
def log(synthetic_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, esper: Esper) -> Directory:
    """A log of the test's own, the environment's, with the finished synthetic run."""
    del esper  # It names another log, so it comes first.
    path = tmp_path / "log"
    shutil.copytree(synthetic_log, path)
    monkeypatch.setenv("ESPER_LOG", str(path))
    return Directory(path)


def test_a_sign_off_says_who_accepted_which_model_as_what(esper: Esper, log: Directory) -> None:
    said = esper(*SIGN_OFF)
    _, end = end_of(log, RUN)
    assert isinstance(end, RunFinished)
    model = end.model_digest
    assert said.lines == [
        f"Grace Example (model owner) signed off run …7c21ab, with model {model[:12]}, as it ended at moment 233: accuracy is enough"
    ]
    ((_, event),) = sign_offs_of(log, RUN)
    assert (event.by, event.role, event.note) == ("Grace Example", "model owner", "accuracy is enough")
    assert (event.model_digest, event.up_to) == (model, 233)


def test_json_is_what_was_recorded(esper: Esper, log: Directory) -> None:
    said = json.loads(esper(*SIGN_OFF, "--json").out)
    ((record, event),) = sign_offs_of(log, RUN)
    assert said == {"type": record.type, "data": event.model_dump()}


def test_a_text_of_several_lines_is_said_in_one_and_kept_as_it_is(esper: Esper, log: Directory) -> None:
    said = esper("hold", "latest", "--by", "Ada", "--why", "an inquiry\nby the board")
    assert said.out == "run …7c21ab is held until it is released, as Ada said: an inquiry by the board\n"
    assert holds_in_force(log, TODAY)[RUN][0][1].why == "an inquiry\nby the board"


@pytest.mark.usefixtures("log")
def test_a_hold_has_a_last_day_or_lasts_until_it_is_released(esper: Esper) -> None:
    assert esper(*HOLD).out == "run …7c21ab is held until it is released, as Ada said: an inquiry\n"
    assert esper(*HOLD, "--until", "9999-12-31").out == "run …7c21ab is held until the end of 9999-12-31 (UTC), as Ada said: an inquiry\n"


def test_a_release_ends_every_hold(esper: Esper, log: Directory) -> None:
    esper(*HOLD)
    esper(*HOLD, "--until", "9999-12-31")
    said = esper("hold", "latest", "--release", "--by", "Grace", "--why", "it is over")
    assert said.out == "run …7c21ab is no longer held; Grace released 2 holds: it is over\n"
    assert holds_in_force(log, TODAY) == {}


def test_where_nothing_is_held_nothing_is_released(esper: Esper, log: Directory) -> None:
    said = esper(*HOLD, "--release")
    assert (said.code, said.err) == (1, f"esper: run {RUN}: expected a hold to release, found none that is in force\n")
    assert log.names(hidden=True) == [RUN]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((*SIGN_OFF[:3], " ", *SIGN_OFF[4:]), "--by: expected the name of a person, got ' '"),
        ((*SIGN_OFF[:5], "", *SIGN_OFF[6:]), "--role: expected the role of a person, got ''"),
        ((*SIGN_OFF[:7], " \n"), r"--note: expected a text, got ' \n'"),
        ((*HOLD[:3], "", *HOLD[4:]), "--by: expected the name of a person, got ''"),
        ((*HOLD[:5], "\t"), r"--why: expected a reason, got '\t'"),
        ((*HOLD, "--until", "31.12.2036"), "--until: expected a day like 2036-12-31, got '31.12.2036'"),
        (("hold", "other", *HOLD[2:]), "no run begins or ends with 'other'"),
        ((*HOLD, "--log", "kafka://nowhere:9092"), "this command writes; a bridge ships what it writes to Kafka"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_nothing_is_written(
    esper: Esper, log: Directory, typed: tuple[str, ...], message: str
) -> None:
    said = esper(*typed)
    assert (said.code, said.out) == (1, "")
    assert message in said.err
    assert log.names(hidden=True) == [RUN]


@pytest.mark.usefixtures("log")
def test_a_release_has_no_last_day(esper: Esper) -> None:
    assert esper(*HOLD, "--release", "--until", "9999-12-31").code == 2


@pytest.mark.parametrize("text", ["2026-02-30", "20260302", "2026-W10-1", "2026-3-2", "٢٠٢٦-03-02", "tomorrow", ""])
def test_a_day_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected a day like 2036-12-31"):
        _day("--until", text, TODAY)


def test_a_hold_may_end_today_and_not_before() -> None:
    assert _day("--until", "2026-03-02", TODAY) == "2026-03-02"
    with pytest.raises(SettingsError, match="--until: expected today, 2026-03-02 in UTC, or a later day, got 2026-03-01"):
        _day("--until", "2026-03-01", TODAY)


def test_a_run_that_has_not_ended_is_not_signed_off(esper: Esper, tmp_path: Path) -> None:
    write_run(Directory(tmp_path), until_epoch=1, finish=False)
    said = esper(*SIGN_OFF, "--log", str(tmp_path))
    assert (said.code, said.out) == (1, "")
    assert "expected a run that has finished or failed, got one that was interrupted" in said.err
