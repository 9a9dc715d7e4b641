-- name = "decision.answered"
-- version = 1
-- title = "Every decision to do something became a command, or was refused."
-- proves = "No decision was passed over, and no refusal is missing."
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
