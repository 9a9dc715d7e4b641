-- name = "settings.change_recorded"
-- version = 1
-- title = "The gate's limits in every epoch are those that the run started with."
-- proves = "No limit was changed while the run went on: what it started with was in force to its end."
-- cannot_show = "Who set the limits, where RunStarted does not say."
-- clauses = ["SOC 2 CC8.1", "EU AI Act Art. 17(1)"]

-- population
SELECT e.run, e.moment, e.epoch, s.name, try_cast(s.value AS DOUBLE) AS started, g.now
FROM (
    SELECT run, moment, epoch, unnest([
        {'name': 'gate.confidence_above', 'now': system_gate_confidence_above},
        {'name': 'gate.urgency_above', 'now': system_gate_urgency_above},
        {'name': 'gate.adaptations_per_epoch', 'now': system_gate_adaptations_per_epoch::DOUBLE},
        {'name': 'gate.adaptation_every', 'now': system_gate_adaptation_every::DOUBLE},
        {'name': 'gate.cooldown', 'now': system_gate_cooldown::DOUBLE},
        {'name': 'gate.embargo', 'now': system_gate_embargo::DOUBLE}
    ]) AS g
    FROM epochs
) AS e
JOIN (SELECT run, entry.key AS name, entry.value AS value FROM (SELECT run, unnest(map_entries(settings)) AS entry FROM runs)) AS s
ON s.run = e.run AND s.name = g.name

-- violations
SELECT run, moment, format('epoch {}: expected {} {}, as the run started, got {}', epoch, name, started, now) AS what
FROM population WHERE NOT coalesce(isfinite(started) AND started = now, false)
