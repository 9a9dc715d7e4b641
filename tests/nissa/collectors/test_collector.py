"""Collectors: found by their paths, kept apart from each other, and counted when they fail or hang."""

import threading
from collections.abc import Callable, Iterable

import pytest

from esper.errors import SettingsError
from esper.nissa.collectors.builtin import PATHS, built_in_model
from esper.nissa.collectors.collector import Collector, Collectors, Running, find_collector, require_distinct
from esper.nissa.collectors.own import own_samples
from esper.nissa.metrics.family import Family, Sample
from esper.nissa.metrics.model import Model

LENGTH = Family("mine_queue_length", "gauge", "Jobs that wait.")
OTHER = Family("mine_other", "gauge", "Something else.")
THREE = Collector("three", 1.0, (LENGTH,), lambda _model: [Sample(LENGTH, 3.0)])


def broken(_model: Model) -> Iterable[Sample]:
    raise ZeroDivisionError("no queue")


def collector(collect: Callable[[Model], Iterable[Sample]], name: str = "some") -> Collector:
    return Collector(name, 1.0, (LENGTH,), collect)


@pytest.mark.parametrize("path", PATHS)
def test_each_collector_of_espers_own_is_found_by_its_path(path: str) -> None:
    assert find_collector(path).families


def test_espers_own_collectors_own_each_metric_once() -> None:
    require_distinct([find_collector(path) for path in PATHS])


def test_no_metric_but_the_one_that_names_the_run_has_a_label_without_bounds() -> None:
    families = [family for path in PATHS for family in find_collector(path).families]
    unbounded = {"run", "task", "seed", "site", "kernel", "blueprint", "machine"}
    assert [family.name for family in families if unbounded & set(family.labels)] == ["esper_run_info"]


def test_a_users_collector_is_found_by_its_path() -> None:
    assert find_collector(f"{__name__}:THREE") is THREE


@pytest.mark.parametrize("path", ["", "json", "json:", ":dumps", "no_such_module:X", "json:no_such_thing", "json:dumps"])
def test_a_path_that_leads_to_no_collector_is_refused_and_named(path: str) -> None:
    with pytest.raises(SettingsError, match=r"nissa\.collectors"):
        find_collector(path)


def test_two_owners_of_one_metric_are_refused() -> None:
    with pytest.raises(SettingsError, match="both own the metric mine_queue_length"):
        require_distinct([collector(broken, "one"), collector(broken, "two")])


def test_two_collectors_of_one_name_are_refused() -> None:
    with pytest.raises(SettingsError, match="two collectors are named 'some'"):
        require_distinct([collector(broken), Collector("some", 1.0, (OTHER,), broken)])


def test_one_that_fails_is_counted_and_the_others_go_on() -> None:
    both = Collectors(
        [collector(broken, "broken"), Collector("fine", 1.0, (OTHER,), lambda _model: [Sample(OTHER, 1.0)])], built_in_model()
    )
    both.run_once()
    assert both.samples() == [Sample(OTHER, 1.0)]
    assert [(one.ok, one.failed) for one in both.standings()] == [(0, 1), (1, 0)]
    assert both.standings()[0].error == "ZeroDivisionError: no queue"


def test_one_that_hangs_is_counted_once_and_the_others_go_on() -> None:
    now, entered, release = [0.0], threading.Event(), threading.Event()

    def hanging(_model: Model) -> Iterable[Sample]:
        entered.set()
        release.wait()
        return [Sample(LENGTH, 1.0)]

    running = Running(collector(hanging), built_in_model(), lambda: now[0])
    thread = threading.Thread(target=running.run_once)
    thread.start()
    entered.wait()
    now[0] = 11.0
    assert [running.standing().hung, running.standing().hung, running.samples()] == [1, 1, ()]
    release.set()
    thread.join()
    assert (running.standing().hung, running.standing().ok, running.samples()) == (1, 1, (Sample(LENGTH, 1.0),))


def test_what_was_given_too_long_ago_is_absent() -> None:
    now = [0.0]
    running = Running(THREE, built_in_model(), lambda: now[0])
    running.run_once()
    now[0] = 9.0
    assert running.samples() == (Sample(LENGTH, 3.0),)
    now[0] = 11.0
    assert running.samples() == ()


def test_a_metric_that_a_collector_does_not_own_is_its_failure() -> None:
    running = Running(collector(lambda _model: [Sample(OTHER, 1.0)]), built_in_model())
    running.run_once()
    assert (running.standing().failed, running.samples()) == (1, ())


def test_labels_that_do_not_fit_the_metric_are_its_failure() -> None:
    running = Running(collector(lambda _model: [Sample(LENGTH, 1.0, ("a",))]), built_in_model())
    running.run_once()
    assert running.standing().failed == 1


def test_how_collectors_do_is_a_metric_itself() -> None:
    one = Collectors([collector(broken, "broken")], built_in_model())
    one.run_once()
    counted = {sample.labels: sample.value for sample in own_samples(one) if sample.family.name == "esper_collector_runs_total"}
    assert counted == {("broken", "ok"): 0, ("broken", "failed"): 1, ("broken", "hung"): 0}


def test_started_collectors_collect_by_themselves() -> None:
    collected = threading.Event()

    def collect(_model: Model) -> Iterable[Sample]:
        collected.set()
        return []

    started = Collectors([collector(collect)], built_in_model())
    started.start()
    assert collected.wait(20)
    started.stop()
