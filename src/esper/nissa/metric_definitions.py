"""Esper's own metrics: name, help and labels of each. How they get their values is in `metrics` and `gauges`.

Labels are closed sets: a label's values that are known beforehand stand here, so that a counter is exposed, at 0, before the first event.
"""

from collections.abc import Mapping, Sequence
from typing import get_args

from esper.events.fields import Event
from esper.events.kinds import control, observability
from esper.events.kinds.epoch import EpochCompleted
from esper.events.kinds.kernels import BlueprintSubmitted
from esper.events.kinds.lifecycle import Stage
from esper.events.kinds.run import CheckpointSaved, RunResumed, RunRolledBack, RunStarted
from esper.events.topics import TELEMETRY, TOPICS
from esper.folds.monitoring.detectors.thresholds import DETECTORS

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COMMANDS = {"command": tuple(control.Command)}
_REPORTS = ("FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK")
_FINDINGS = get_args(observability.TrendDetected.model_fields["finding"].annotation)
_REASONS = {"why": get_args(observability.AlertSuppressed.model_fields["why"].annotation)}
_ADAPTATIONS = {"adaptation": tuple(control.Adaptation)}
_DETECTORS = {"detector": tuple(sorted(DETECTORS))}
_NOTIFICATIONS = {"handler": (), "outcome": ("delivered", "failed")}
_RULES = {"rule": get_args(control.GateRule)}
_TELEMETRY = {"topic": tuple(name for name in TOPICS if name in TELEMETRY)}
_ALERTS = {"state": ("pending", "firing", "resolved"), "severity": ("info", "warning", "critical")}

COUNTERS: Mapping[str, tuple[str, Mapping[str, Sequence[str]], type[Event] | None]] = {
    "esper_seed_transitions_total": ("Stages that seeds entered.", {"stage": tuple(Stage)}, None),
    "esper_seed_activations_total": ("Seeds that began to be blended in: entries into GRAFTING.", {}, None),
    "esper_seed_errors_total": ("Values that were not finite, as the health of seeds reports them.", {}, None),
    "esper_kernel_submissions_total": ("Blueprints sent to be compiled.", {}, BlueprintSubmitted),
    "esper_kernel_compiles_total": ("Blueprints that were compiled, or could not be.", {"outcome": ("ok", "failed")}, None),
    "esper_kernel_cache_hits_total": ("Kernels that were found in the cache.", {}, None),
    "esper_kernel_cache_misses_total": ("Kernels that had to be compiled.", {}, None),
    "esper_adaptations_decided_total": ("Decisions, by what they ask for.", _ADAPTATIONS, control.DecisionMade),
    "esper_adaptations_refused_total": ("Decisions that the gate refused, by the first rule.", _RULES, control.DecisionRefused),
    "esper_commands_applied_total": ("Commands that took effect.", _COMMANDS, control.CommandApplied),
    "esper_commands_refused_total": ("Commands that were refused and changed nothing.", _COMMANDS, control.CommandRefused),
    "esper_commands_failed_total": ("Commands that failed and changed nothing.", _COMMANDS, control.CommandFailed),
    "esper_field_reports_total": ("Seeds whose life ended, by how.", {"outcome": _REPORTS}, control.FieldReported),
    "esper_rollbacks_total": ("Times training went back to a checkpoint.", {}, RunRolledBack),
    "esper_runs_started_total": ("Runs that began.", {}, RunStarted),
    "esper_runs_ended_total": ("Runs that ended.", {"outcome": ("finished", "failed")}, None),
    "esper_runs_resumed_total": ("Times a run went on after an interruption.", {}, RunResumed),
    "esper_epochs_total": ("Epochs that the runs completed.", {}, EpochCompleted),
    "esper_steps_total": ("Optimizer steps that the runs made.", {}, None),
    "esper_checkpoints_total": ("Checkpoints that were saved.", {}, CheckpointSaved),
    "esper_records_total": ("Records read from the log, by topic.", {"topic": tuple(TOPICS)}, None),
    "esper_records_unreadable_total": ("Records that this version could not decode, by topic.", {"topic": tuple(TOPICS)}, None),
    "esper_samples_dropped_total": ("Telemetry that found no room before it was taken, by topic.", _TELEMETRY, None),
    "esper_anomalies_total": ("Values that detectors did not expect.", _DETECTORS, observability.AnomalyDetected),
    "esper_trends_total": ("Trends that were found.", {"finding": _FINDINGS}, observability.TrendDetected),
    "esper_alerts_total": ("Changes of alerts.", _ALERTS, None),
    "esper_alert_notifications_total": ("Alerts that a handler was given.", _NOTIFICATIONS, observability.AlertNotified),
    "esper_alerts_suppressed_total": ("Alerts that were deliberately not delivered, by why.", _REASONS, observability.AlertSuppressed),
    "esper_runs_went_silent_total": ("Runs that went silent.", {"state": ("dead", "idle")}, observability.RunWentSilent),
    "esper_runs_heard_again_total": ("Silent runs that were heard again.", {}, observability.RunHeardAgain),
    "esper_folds_blocked_total": ("Runs with a fact that could not be understood or was missing.", {}, observability.FoldBlocked),
}
"""Counted from records as they are read: help, the known values of each label, and the kind of event that increments it by one.

The labels of such a kind are fields of the event; without a kind (None), `metrics` counts in its own way.
"""

HISTOGRAMS: Mapping[str, tuple[str, Sequence[float]]] = {
    "esper_kernel_compile_seconds": ("How long compiling took, cache hits apart.", _SECONDS),
    "esper_kernel_latency_seconds": (
        "One forward at batch 1, as kernels were characterized.",
        (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 0.1),
    ),
    "esper_step_duration_seconds": ("How long optimizer steps took.", _SECONDS),
    "esper_data_wait_seconds": ("How long optimizer steps waited for data.", _SECONDS),
}
"""Observed from records as they are read: help and buckets."""

SCRAPED: Mapping[str, tuple[str, Sequence[str]]] = {
    "esper_seeds": ("Slots of the live runs by the stage that they are in.", ["stage"]),
    "esper_seed_health_score_ratio": ("Health score of a live run's seeds at the last measurement.", ["run", "statistic"]),
    "esper_seed_dead_neuron_ratio": ("Share of dead units over a live run's sites and seeds.", ["run", "statistic"]),
    "esper_seed_latency_seconds": ("Last forward of a live run's seeds.", ["run", "statistic"]),
    "esper_seeds_recovering": ("Seeds of a live run that are disabled after a value that was not finite.", ["run"]),
    "esper_run_info": ("A live run: its id, the end of it that is the label `run` of its gauges, and its task.", ["id", "run", "task"]),
    "esper_epoch": ("Last epoch that a live run completed.", ["run"]),
    "esper_epochs_planned": ("Epochs that a live run is to have.", ["run"]),
    "esper_step": ("Last optimizer step of a live run.", ["run"]),
    "esper_run_last_record_timestamp_seconds": ("When a live run wrote last.", ["run"]),
    "esper_loss": ("Mean loss of a live run's last epoch.", ["run", "split"]),
    "esper_accuracy_ratio": ("Accuracy of a live run's last epoch.", ["run", "split"]),
    "esper_step_loss": ("Loss of a live run's last measured step.", ["run"]),
    "esper_gradient_norm": ("Gradient norm of a live run's last measured step.", ["run"]),
    "esper_learning_rate": ("Learning rate of a live run's first parameter group.", ["run"]),
    "esper_samples_per_second": ("Training samples a second of a live run, as measured last.", ["run"]),
    "esper_parameters": ("Parameters of a live run's host with its seeds.", ["run"]),
    "esper_training_memory_bytes": ("Memory of a live run's device, as measured last.", ["run"]),
    "esper_cpu_utilization_ratio": ("Share of all cores that is in use.", []),
    "esper_memory_used_bytes": ("Memory of the machine that is in use.", []),
    "esper_memory_total_bytes": ("Memory of the machine.", []),
    "esper_disk_free_bytes": ("Room that is left on the disk of the log.", []),
    "esper_disk_total_bytes": ("Size of the disk of the log.", []),
    "esper_network_received_bytes_total": ("Bytes that the machine received since it started.", []),
    "esper_network_sent_bytes_total": ("Bytes that the machine sent since it started.", []),
    "esper_gpu_utilization_ratio": ("Share of the time that the GPU was busy.", ["gpu"]),
    "esper_gpu_memory_used_bytes": ("Memory of the GPU that is in use.", ["gpu"]),
    "esper_gpu_memory_total_bytes": ("Memory of the GPU.", ["gpu"]),
    "esper_gpu_temperature_celsius": ("Temperature of the GPU.", ["gpu"]),
    "esper_gpu_power_watts": ("Power that the GPU draws.", ["gpu"]),
    "esper_log_dropped_samples": ("Telemetry that the machine's log did not take.", []),
    "esper_resources_measured_timestamp_seconds": ("When an agent measured the machine last.", []),
    "esper_runs": ("Runs of the log by how they stand.", ["standing"]),
    "esper_follow_runs": ("Runs that are followed.", []),
    "esper_follow_unreadable_runs": ("Runs that are followed and cannot be read.", []),
    "esper_follow_caught_up_timestamp_seconds": ("When everything that stood on disk had been read.", []),
    "esper_follow_poll_timestamp_seconds": ("When the log was looked at last.", []),
    "esper_follow_gone_records": ("Telemetry that followed runs lack: Kafka had deleted it before it was copied.", []),
    "esper_mirror_caught_up_timestamp_seconds": ("When everything that was on Kafka had been copied.", []),
    "esper_mirror_behind_messages": ("Messages on Kafka that are not copied yet.", []),
    "esper_mirror_refused_runs": ("Runs that are not copied any more, because their records contradict each other.", []),
    "esper_delivery_partitions": ("Partitions of the alerts' topic that the deliverer beside this service owns.", []),
    "esper_delivery_outstanding_alerts": ("Alerts that the deliverer beside this service has not settled yet, once for each handler.", []),
    "esper_bridge_waiting_records": ("Records of the log that are not known to be on Kafka.", []),
    "esper_bridge_away_timestamp_seconds": ("Since when the bridge of the log gets no answer from Kafka.", []),
    "esper_alerts_firing": ("Alerts that fire now.", ["severity"]),
    "esper_collector_runs_total": ("Times a collector was called, by what came of it.", ["collector", "outcome"]),
    "esper_collector_duration_seconds": ("How long a collector took the last time.", ["collector"]),
    "esper_collector_success_timestamp_seconds": ("When a collector gave samples last.", ["collector"]),
}
"""Read when they are asked for: help and label names. Gauges, but for names that end with `_total`."""
