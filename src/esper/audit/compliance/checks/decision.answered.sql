-- name = "decision.answered"
-- version = 1
-- title = "Every decision to do something became a command, or was refused; what was refused for its numbers was below the limits."
-- proves = "No decision was passed over, no refusal is missing, and none was refused for a confidence or an urgency that the limits in force allow."
-- cannot_show = "What becomes of the decisions that a run has taken last and, interrupted, not yet answered: they are left out."
-- clauses = ["NIST AI RMF MAP 4.2"]

-- population
WITH over AS (
    SELECT run, max(moment) AS moment
    FROM (SELECT run, moment FROM epochs UNION ALL SELECT run, moment FROM rollbacks UNION ALL SELECT run, moment FROM run_ends)
    GROUP BY run
),
answers AS (
    SELECT run, cause FROM commands UNION ALL SELECT run, cause FROM outcomes WHERE status = 'decision refused'
)
SELECT d.run, d.moment, d.adaptation, d.site, d.seed, count(a.cause) AS answers
FROM decisions AS d
JOIN over AS o ON o.run = d.run
LEFT JOIN answers AS a ON a.run = d.run AND a.cause = d.id
WHERE d.adaptation <> 'none' AND d.moment < o.moment
GROUP BY d.run, d.moment, d.adaptation, d.site, d.seed

-- violations
SELECT run, moment, format('{} of seed {} of site {}: expected a command or a refusal, got neither', adaptation, seed, site) AS what
FROM population WHERE answers = 0
UNION ALL
SELECT run, moment, concat(adaptation, ' of seed ', seed, ' of site ', site, ', refused for its ', rule, ': expected one not above ', above, ', got ', value)
FROM (
    SELECT
        d.run, d.moment, d.adaptation, d.site, d.seed, r.rule, CASE r.rule WHEN 'confidence' THEN d.confidence ELSE d.urgency END AS value,
        CASE r.rule WHEN 'confidence' THEN e.system_gate_confidence_above ELSE e.system_gate_urgency_above END AS above
    FROM (FROM outcomes WHERE status = 'decision refused' AND rule IN ('confidence', 'urgency')) AS r
    JOIN decisions AS d ON d.run = r.run AND d.id = r.cause
    ASOF JOIN epochs AS e ON e.run = d.run AND e.moment < d.moment
)
WHERE coalesce(isfinite(value) AND value > above, false)
