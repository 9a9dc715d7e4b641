"""A run's monitor comes to the same state in whatever order the topics of the run take turns."""

from datetime import UTC, datetime
from random import Random

import pytest

from esper.events.envelope import Record, RunId
from esper.events.kinds.observability import FoldUnblocked
from esper.folds.monitoring.derive import MonitorSettings
from esper.folds.monitoring.run_monitor import RunMonitor
from esper.observer.build import builtin_rules
from esper.oona.directory import Directory
from tests.kafka.delivery import mixed
from tests.kafka.recorded import log_of, run_of, write_resumed_run

RUN = run_of(1)
SETTINGS = MonitorSettings(rules=builtin_rules())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, ...]:
    """A run that goes on; its last records are heartbeats, which have the moment of the record before them."""
    directory = Directory(tmp_path_factory.mktemp("log"))
    write_resumed_run(directory, RUN)
    return log_of(directory, RUN)


def after(records: list[Record] | tuple[Record, ...]) -> RunMonitor:
    """The monitor after `records`."""
    monitor = RunMonitor(RUN, SETTINGS)
    for record in records:
        monitor.take(record)
    return monitor


@pytest.mark.parametrize("rng_seed", range(5))
def test_the_order_in_which_topics_take_turns_makes_no_difference(log: tuple[Record, ...], rng_seed: int) -> None:
    assert after(mixed(log, Random(rng_seed))).save() == after(log).save()


def test_own_records_of_two_runs_that_begin_at_once_have_different_ids() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    one, other = (RunMonitor(RunId(run), SETTINGS).own_record(FoldUnblocked(topics=()), now)[0] for run in ("a", "b"))
    assert one.id != other.id
