-- The run as it stood at the last moment before the time asked for.
SELECT r.moment, r.time, r.status, r.epoch, r.step, r.epochs_completed AS "epochs completed", e.train_loss AS "training loss",
    r.validation_loss AS "validation loss", e.system_parameters AS parameters,
    format('confidence > {}, urgency > {}, {} an epoch, cooldown {}, embargo {}, parameters <= {}', e.system_gate_confidence_above, e.system_gate_urgency_above,
        e.system_gate_adaptations_per_epoch, e.system_gate_cooldown, e.system_gate_embargo, e.system_parameters_limit) AS "limits in force"
FROM run_at($run, $then) AS r ASOF LEFT JOIN epochs AS e ON e.run = r.run AND e.moment <= r.moment
