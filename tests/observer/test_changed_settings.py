"""Settings that change between two observers of a run: from there on everything is derived as if they had always held."""

from dataclasses import replace
from pathlib import Path

import pytest

from esper.events import topics
from esper.events.codec import decode
from esper.events.envelope import Record
from esper.events.kinds.observability import ObserverStarted, WindowAggregated
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.windows import WindowSettings
from esper.observer.build import _RULES, observer_maker, rebuild, watching_of
from esper.observer.observing import ObserverSettings
from tests.observer.observed_runs import SETTINGS, Growing, read

SETTINGS_TABLES = "[windows]\nlength_s = 2\n[detectors]\nspike_spreads = 3.0\noff = ['drift']\n"
EARLY = 100  # Records that the first observer sees: two and a half seconds.
FIRST = replace(SETTINGS, monitor=SETTINGS.monitor.model_copy(update={"windows": WindowSettings(length_s=1)}))


@pytest.fixture
def changed(growing: Growing) -> ObserverSettings:
    """The usual settings, but for what `alerts.toml` in the log says."""
    (growing.directory.path / _RULES).write_text(SETTINGS_TABLES)
    watch: MonitorSettings = watching_of(growing.directory)
    return replace(SETTINGS, monitor=watch.model_copy(update={"silence": SETTINGS.monitor.silence}))


def windows(records: tuple[Record, ...]) -> list[WindowAggregated]:
    return [event for event in map(decode, records) if isinstance(event, WindowAggregated)]


def test_what_is_derived_from_then_on_is_what_the_new_settings_alone_would_give(
    tmp_path: Path, records: tuple[Record, ...], growing: Growing, changed: ObserverSettings
) -> None:
    growing.write(EARLY)
    with growing.observer(FIRST) as first:
        first.turn(0.0)
    before = growing.derived()
    growing.write()
    with growing.observer(changed) as second:
        second.turn(0.0)
    always = Growing(tmp_path / "always", records)
    always.write()
    with always.observer(changed) as only:
        only.turn(0.0)
    always.log.close()
    later = growing.derived()[len(before) :]
    assert {one.length_s for one in windows(before)} == {1.0}
    assert {one.length_s for one in windows(later)} == {2.0}
    assert later == tuple(record for record in always.derived() if record.moment > records[EARLY - 1].moment)


def test_each_observer_names_the_settings_that_it_has(growing: Growing, changed: ObserverSettings) -> None:
    growing.write()
    for settings in (FIRST, changed):
        with growing.observer(settings) as observer:
            observer.turn(0.0)
    said = [decode(record) for record in read(growing.directory, growing.run) if record.topic == topics.OBSERVERS]
    started = [event for event in said if isinstance(event, ObserverStarted)]
    assert [event.settings_digest for event in started] == [FIRST.monitor.settings_digest, changed.monitor.settings_digest]


def test_a_state_that_was_made_by_several_settings_is_made_again_the_same(growing: Growing, changed: ObserverSettings) -> None:
    growing.write(EARLY)
    with growing.observer(FIRST) as observer:
        observer.turn(0.0)
    growing.write()
    with growing.observer(changed) as observer:
        observer.turn(0.0)
    assert [made.same for made in rebuild(growing.directory)] == [True]
    (growing.directory.path / _RULES).unlink()
    assert [made.same for made in rebuild(growing.directory)] == [True]


def test_an_observer_has_what_the_file_says(growing: Growing, changed: ObserverSettings) -> None:
    with observer_maker(growing.directory)() as observer:
        assert observer._settings.monitor.windows == changed.monitor.windows
