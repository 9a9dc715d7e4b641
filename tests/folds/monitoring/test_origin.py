"""An alert leads to its cause: step, batch and its sample, layer and parameter group, what changed last, and the command that shows it."""

from esper.events.envelope import EventId
from esper.events.kinds.observability import AlertFiring
from esper.events.kinds.telemetry import BatchColumns
from esper.folds.monitoring.origin import origin_words
from tests.folds.monitoring.streams import Host, TimedWriter, health, losses, watching

SETTINGS = watching("""
[[rule]]
name = "wild"
topic = "telemetry.training.steps"
anomaly = "nonfinite"
severity = "critical"
annotations = { summary = "since step {since_step}" }

[[rule]]
name = "dead"
topic = "telemetry.seed.health"
metric = "dead_neuron_ratio"
above = 0.9
severity = "warning"
""")
APPLIED = EventId("run/57")


def firing(writer: TimedWriter) -> AlertFiring:
    (alert,) = Host(SETTINGS, saving=True).take_all(writer.records).alerts
    assert isinstance(alert, AlertFiring)
    return alert


def test_an_alert_about_steps_names_the_step_its_batch_and_what_changed_last() -> None:
    writer = TimedWriter()
    for first, values, rate in ((1, (1.0, 1.0), 0.1), (3, (1.0, 1.0), 0.2), (5, (1.0, float("nan")), 0.2)):
        numbers = range(first, first + 2)
        batches = BatchColumns(step=tuple(numbers), number=tuple(numbers), sample=tuple(f"{one}" * 12 for one in numbers))
        changes = {"batches": batches, "learning_rates": (rate,), "last_adaptation": APPLIED}
        writer.at(first, losses(*values, step=first).model_copy(update=changes))
    alert, record = firing(writer), writer.records[-1]
    assert alert.annotations == {"summary": "since step 6"}
    assert alert.origin is not None
    assert (alert.origin.step, alert.origin.batch, alert.origin.sample) == (6, 6, "666666666666")
    assert (alert.origin.decision, alert.origin.rates_since, alert.origin.layer) == (APPLIED, 3, None)
    assert alert.origin.command == f"esper show {record.run} --at {record.moment}"
    assert origin_words(alert.origin) == (
        "since step 6; batch 6 of its epoch, sample 666666666666; last decision applied before: run/57; "
        "learning rates as they are since step 3"
    )


def test_an_alert_about_a_layer_names_it_and_its_parameter_group() -> None:
    writer = TimedWriter()
    writer.at(0, health(0.95).model_copy(update={"groups": {"layer0": 1}, "last_adaptation": APPLIED}))
    origin = firing(writer).origin
    assert origin is not None
    assert (origin.layer, origin.group, origin.decision, origin.batch) == ("layer0", 1, APPLIED, None)
    assert "layer layer0 (parameter group 1)" in origin_words(origin)
