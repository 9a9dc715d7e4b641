-- name = "decision.explained"
-- version = 1
-- title = "Every decision has a reason, and evidence that stands in the log before it."
-- proves = "What each decision was taken on can be read in the log, at the moment at which it was taken."
-- cannot_show = "That the reason is a good one."
-- clauses = ["NIST AI RMF MEASURE 2.8"]

-- population
SELECT run, moment, adaptation, reason, evidence FROM decisions

-- violations
SELECT run, moment, format('{}: expected a reason, got {}', adaptation, coalesce('''' || reason || '''', 'none')) AS what
FROM population WHERE trim(coalesce(reason, '')) = ''
UNION ALL
SELECT run, moment, format('{}: expected evidence, got none', adaptation) FROM population WHERE len(coalesce(evidence, [])) = 0
UNION ALL
SELECT p.run, p.moment, concat(p.adaptation, ': expected evidence that stands before it, an EpochCompleted or a SeedEvaluated, got ', p.id)
FROM (SELECT run, moment, adaptation, unnest(evidence) AS id FROM population) AS p
ANTI JOIN (
    SELECT run, id, moment FROM epochs UNION ALL SELECT run, id, moment FROM evaluations
) AS e ON e.run = p.run AND e.id = p.id AND e.moment < p.moment
