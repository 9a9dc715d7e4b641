-- name = "adaptation.max_per_epoch"
-- version = 1
-- title = "After one epoch no more was germinated, grafted, fossilized and culled than the limit in force allows."
-- proves = "The cap on adaptations was kept in every epoch."
-- cannot_show = "That the cap was a good one."
-- clauses = ["NIST AI RMF MAP 4.2"]

-- population
SELECT o.run, o.epoch, o.moment, o.adaptations, e.system_gate_adaptations_per_epoch AS most
FROM (
    SELECT run, epoch, max(moment) AS moment, count(*) AS adaptations FROM outcomes
    WHERE status = 'applied' AND command IN ('germinate', 'graft', 'fossilize', 'cull')
    GROUP BY run, epoch
) AS o
ASOF LEFT JOIN epochs AS e ON e.run = o.run AND e.moment < o.moment

-- violations
SELECT run, moment, format('epoch {}: expected at most {} adaptations, got {}', epoch, coalesce(most::VARCHAR, 'a known number of'), adaptations) AS what
FROM population WHERE NOT coalesce(adaptations <= most, false)
