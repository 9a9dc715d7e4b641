"""Metrics as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from esper.nissa.metrics.exposition import Exposition
from esper.nissa.metrics.family import Family, Histogram, Sample

SPEED = Family("mine_speed_seconds", "histogram", "How long.", {"way": ("up", "down")}, (0.5, 2.0))
COUNT = Family("mine_events_total", "counter", "How many.")
LOSS = Family("mine_loss", "gauge", "How bad.")


def exposition() -> Exposition:
    histogram = Histogram(SPEED.buckets)
    for value in (0.1, 0.5, 1.0, 9.0, float("nan"), float("inf")):
        histogram.observe(value)
    samples = [Sample(SPEED, histogram.distribution(), ("up",)), Sample(COUNT, 3), Sample(LOSS, float("nan"))]
    return Exposition(lambda: (samples, ()))


def test_a_scraper_that_asks_for_nothing_gets_text() -> None:
    body, content_type = exposition().write("")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE mine_events_total counter\nmine_events_total 3.0\n" in body


def test_a_scraper_that_prefers_openmetrics_gets_that() -> None:
    body, content_type = exposition().write("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert b"# TYPE mine_events counter\nmine_events_total 3.0\n" in body
    assert body.endswith(b"# EOF\n")


def test_buckets_are_cumulated_and_what_is_not_finite_has_no_place_in_them() -> None:
    body, _ = exposition().write("")
    [family] = [one for one in text_string_to_metric_families(body.decode()) if one.name == "mine_speed_seconds"]
    values = {(sample.name.removeprefix("mine_speed_seconds_"), sample.labels.get("le")): sample.value for sample in family.samples}
    buckets = {("bucket", "0.5"): 2, ("bucket", "2.0"): 3, ("bucket", "+Inf"): 4}
    assert values == buckets | {("count", None): 4, ("sum", None): 10.6}


def test_a_gauge_that_is_no_number_says_so() -> None:
    assert b"mine_loss NaN\n" in exposition().write("")[0]
