-- The limits of the gate: their values at the start, and as every epoch recorded them, a row for each value that held.
WITH in_force AS (
    UNPIVOT (
        SELECT
            epoch, moment, CAST(system_gate_confidence_above AS DOUBLE) AS confidence_above,
            CAST(system_gate_urgency_above AS DOUBLE) AS urgency_above,
            CAST(system_gate_adaptations_per_epoch AS DOUBLE) AS adaptations_per_epoch,
            CAST(system_gate_adaptation_every AS DOUBLE) AS adaptation_every, CAST(system_gate_cooldown AS DOUBLE) AS cooldown,
            CAST(system_gate_embargo AS DOUBLE) AS embargo, CAST(system_parameters_limit AS DOUBLE) AS parameters
        FROM epochs WHERE run = $run
    ) ON confidence_above, urgency_above, adaptations_per_epoch, adaptation_every, cooldown, embargo, parameters INTO NAME name VALUE value
),
turns AS (
    SELECT *, value IS DISTINCT FROM lag(value) OVER (PARTITION BY name ORDER BY moment) AS begins FROM in_force
),
spans AS (SELECT *, count_if(begins) OVER (PARTITION BY name ORDER BY moment) AS span FROM turns),
held AS (
    SELECT name, any_value(value) AS value, min(epoch) AS "from epoch", max(epoch) AS "to epoch" FROM spans GROUP BY name, span
),
meant(name, meaning) AS (VALUES
    ('confidence_above', 'a decision needs a confidence above it'), ('urgency_above', 'a decision needs an urgency above it'),
    ('adaptations_per_epoch', 'adaptations after one epoch, at most'), ('adaptation_every', 'epochs from one adaptation to the next'),
    ('cooldown', 'epochs from one germination to the next'), ('embargo', 'epochs that a culled slot stays closed'),
    ('parameters', 'parameters, at most; set as a multiple of those at the start')
)
SELECT
    replace(m.name, '_', ' ') AS "limit", m.meaning AS "what it means", s.value AS "set at the start", h.value AS "in force",
    h."from epoch", h."to epoch"
FROM meant AS m
LEFT JOIN held AS h USING (name)
LEFT JOIN (SELECT name, CAST(value AS VARCHAR) AS value FROM settings WHERE run = $run) AS s
    ON s.name = CASE m.name WHEN 'parameters' THEN 'growth.max_parameters' ELSE 'gate.' || m.name END
ORDER BY m.name, h."from epoch"
