-- The limits that were in force together, numbered by their first epoch.
WITH judged AS (
    SELECT epoch, moment, {
        'confidence above': system_gate_confidence_above, 'urgency above': system_gate_urgency_above,
        'adaptations an epoch': system_gate_adaptations_per_epoch, 'every': system_gate_adaptation_every,
        'cooldown': system_gate_cooldown, 'embargo': system_gate_embargo, 'parameters': system_parameters_limit
    } AS gate
    FROM epochs WHERE run = $run
),
numbered AS (
    SELECT gate, row_number() OVER (ORDER BY min(moment)) AS number, min(epoch) AS first, max(epoch) AS last FROM judged GROUP BY gate
)
SELECT number AS limits, first AS "from epoch", last AS "to epoch", unnest(gate) FROM numbered ORDER BY number
