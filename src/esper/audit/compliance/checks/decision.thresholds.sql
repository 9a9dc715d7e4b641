-- name = "decision.thresholds"
-- version = 1
-- title = "What was germinated, grafted, fossilized or culled was decided with a confidence and an urgency above the limits in force."
-- proves = "No adaptation took effect whose decision was below the limits that stood in the SystemState before it; what is not a number is below every limit."
-- cannot_show = "That confidence and urgency were computed as they should be."
-- clauses = ["NIST AI RMF MAP 4.2", "NIST AI RMF MANAGE 4.1"]

-- population
WITH adapted AS (
    SELECT o.run, o.moment, o.command, o.site, o.seed, d.moment AS decided, d.confidence, d.urgency
    FROM outcomes AS o
    JOIN commands AS c ON c.run = o.run AND c.id = o.cause
    JOIN decisions AS d ON d.run = c.run AND d.id = c.cause
    WHERE o.status = 'applied' AND o.command IN ('germinate', 'graft', 'fossilize', 'cull')
)
SELECT a.*, e.system_gate_confidence_above AS confidence_above, e.system_gate_urgency_above AS urgency_above
FROM adapted AS a ASOF LEFT JOIN epochs AS e ON e.run = a.run AND e.moment < a.decided

-- violations
SELECT run, moment, format('{} of seed {} of site {}: expected a {} above {}, got {}', command, seed, site, name, coalesce(above::VARCHAR, 'a limit'), value) AS what
FROM (
    SELECT run, moment, command, site, seed, 'confidence' AS name, confidence AS value, confidence_above AS above FROM population
    UNION ALL
    SELECT run, moment, command, site, seed, 'urgency', urgency, urgency_above FROM population
)
WHERE NOT coalesce(isfinite(value) AND isfinite(above) AND value > above AND value <= 1, false)
