"""Collectors: found by their paths, kept apart from each other, and counted when they fail or hang."""

import threading
from collections.abc import Callable, Iterable

import pytest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from esper.errors import SettingsError
from esper.nissa.custom_collectors import Collector, CollectorRun, Collectors, find_collector
from esper.nissa.custom_metrics import CustomMetrics
from esper.nissa.metric_definitions import COUNTERS, HISTOGRAMS, SCRAPED
from esper.nissa.metrics import LogMetrics

LENGTH: dict[str, tuple[str, ...]] = {"mine_queue_length": ()}
OTHER: dict[str, tuple[str, ...]] = {"mine_other": ()}


def three() -> Iterable[Metric]:
    yield GaugeMetricFamily("mine_queue_length", "Jobs that wait.", 3.0)


def other() -> Iterable[Metric]:
    yield GaugeMetricFamily("mine_other", "Something else.", 1.0)


def broken() -> Iterable[Metric]:
    raise ZeroDivisionError("no queue")


THREE = Collector("three", 1.0, LENGTH, three)


def collector(collect: Callable[[], Iterable[Metric]], name: str = "some") -> Collector:
    return Collector(name, 1.0, LENGTH, collect)


def collectors(*users: Collector) -> Collectors:
    return Collectors(LogMetrics(CustomMetrics(lambda _samples: None)), users)


def values(families: Iterable[Metric]) -> dict[str, float]:
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_espers_own_metrics_have_one_owner_each() -> None:
    names = [*COUNTERS, *HISTOGRAMS, *SCRAPED]
    assert len(set(names)) == len(names)


def test_no_metric_but_the_one_that_names_the_run_has_a_label_without_bounds() -> None:
    labels = {name: set(described[1]) for table in (COUNTERS, SCRAPED) for name, described in table.items()}
    unbounded = {"id", "task", "seed", "site", "kernel", "blueprint", "machine"}
    assert [name for name, found in labels.items() if unbounded & found] == ["esper_run_info"]
    assert not [name for name in COUNTERS if "run" in labels[name]]


def test_a_users_collector_is_found_by_its_path() -> None:
    assert find_collector(f"{__name__}:THREE") is THREE


@pytest.mark.parametrize("path", ["", "json", "json:", ":dumps", "no_such_module:X", "json:no_such_thing", "json:dumps"])
def test_a_path_that_leads_to_no_collector_is_refused_and_named(path: str) -> None:
    with pytest.raises(SettingsError, match=r"nissa\.collectors"):
        find_collector(path)


@pytest.mark.parametrize("name", ["esper_loss", "esper_epochs_total", "esper_step_duration_seconds"])
def test_a_collector_that_owns_a_metric_of_espers_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"'esper' and 'some' both own the metric {name}"):
        collectors(Collector("some", 1.0, {name: ()}, broken))


def test_two_owners_of_one_metric_are_refused() -> None:
    with pytest.raises(SettingsError, match="both own the metric mine_queue_length"):
        collectors(collector(broken, "one"), collector(broken, "two"))


def test_two_collectors_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="two collectors are named 'some'"):
        collectors(collector(broken), Collector("some", 1.0, OTHER, broken))


def test_one_that_fails_is_counted_and_the_others_go_on() -> None:
    both = collectors(collector(broken, "broken"), Collector("fine", 1.0, OTHER, other))
    for user in both.users:
        user.run_once()
    assert values(both.collect())["mine_other"] == 1.0
    assert [(one.name, one.ok, one.failed) for one in both.status()] == [("esper", 1, 0), ("broken", 0, 1), ("fine", 1, 0)]
    assert both.status()[1].error == "ZeroDivisionError: no queue"


def test_one_that_hangs_is_counted_once_and_neither_a_scrape_nor_the_others_wait_for_it() -> None:
    now, entered, release = [0.0], threading.Event(), threading.Event()

    def hanging() -> Iterable[Metric]:
        entered.set()
        release.wait()
        return three()

    run = CollectorRun(collector(hanging), lambda: now[0])
    thread = threading.Thread(target=run.run_once)
    thread.start()
    entered.wait()
    now[0] = 11.0
    assert [run.status().hung, run.status().hung, run.families()] == [1, 1, []]
    release.set()
    thread.join()
    assert (run.status().hung, run.status().ok, values(run.families())) == (1, 1, {"mine_queue_length": 3.0})


def test_what_was_given_too_long_ago_is_absent() -> None:
    now = [0.0]
    run = CollectorRun(THREE, lambda: now[0])
    run.run_once()
    now[0] = 9.0
    assert values(run.families()) == {"mine_queue_length": 3.0}
    now[0] = 11.0
    assert run.families() == []


def odd_labels() -> Iterable[Metric]:
    family = GaugeMetricFamily("mine_queue_length", "Jobs that wait.", labels=["queue"])
    family.add_metric(["a"], 1.0)
    yield family


def odd_value() -> Iterable[Metric]:
    yield GaugeMetricFamily("mine_queue_length", "Jobs that wait.", "three")  # type: ignore[arg-type] # what a user may write


def odd_type() -> Iterable[Metric]:
    yield CounterMetricFamily("mine_queue_length", "Jobs that wait.", 3.0)


@pytest.mark.parametrize("collect", [other, odd_labels, odd_value, odd_type])
def test_a_metric_that_it_does_not_own_or_that_cannot_be_written_is_its_failure(collect: Callable[[], Iterable[Metric]]) -> None:
    run = CollectorRun(collector(collect))
    run.run_once()
    assert (run.status().failed, run.families()) == (1, [])


def test_how_collectors_do_is_a_metric_itself() -> None:
    one = collectors(collector(broken, "broken"))
    one.users[0].run_once()
    samples = [sample for family in one.collect() for sample in family.samples if sample.name == "esper_collector_runs_total"]
    counted = {tuple(sample.labels.values()): sample.value for sample in samples}
    assert counted == {("esper", "ok"): 1, ("esper", "failed"): 0, ("esper", "hung"): 0} | {
        ("broken", "ok"): 0,
        ("broken", "failed"): 1,
        ("broken", "hung"): 0,
    }


def test_started_collectors_collect_by_themselves() -> None:
    collected = threading.Event()

    def collect() -> Iterable[Metric]:
        collected.set()
        return []

    started = collectors(collector(collect))
    started.start()
    assert collected.wait(20)
    started.stop()
