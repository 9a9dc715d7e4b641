-- name = "replay.state"
-- version = 1
-- title = "What every EpochCompleted tells the controller is what the records before it lead to."
-- proves = "Stages and lives of all seeds, their evaluations, the refusals and failures at each site, the germinations and the newest validation loss, as they were told, follow from the log."
-- cannot_show = "That what was measured (health, losses) is right."
-- clauses = ["21 CFR 11.10(a)", "NIST AI RMF MEASURE 2.13"]

-- population
WITH moved AS (
    SELECT run, moment, site, seed, to_stage AS stage, life, epoch AS since_epoch, blueprint FROM transitions
    UNION ALL
    SELECT s.run, s.moment, s.site, s.seed, s.stage, s.life, s.since_epoch, s.blueprint
    FROM seed_states AS s SEMI JOIN rollbacks AS r USING (run, moment)
),
told AS (SELECT s.* FROM seed_states AS s SEMI JOIN epochs AS e USING (run, moment)),
slots AS (
    SELECT e.run, e.moment, s.site, s.seed
    FROM epochs AS e
    JOIN (SELECT run, site.name AS site, unnest(range(site.slots)) AS seed FROM (SELECT run, unnest(sites) AS site FROM runs)) AS s USING (run)
    UNION
    SELECT run, moment, site, seed FROM told
),
counted AS (
    SELECT run, moment, site, sum(refused) OVER before AS refused, sum(failed) OVER before AS failed
    FROM (
        SELECT o.run, o.moment, coalesce(o.site, d.site) AS site, (o.status <> 'failed')::INTEGER AS refused, (o.status = 'failed')::INTEGER AS failed
        FROM outcomes AS o LEFT JOIN decisions AS d ON d.run = o.run AND d.id = o.cause
        WHERE o.status <> 'applied'
        UNION ALL
        SELECT run, moment, site, 0, 1 FROM kernels WHERE status = 'failed'
    )
    WINDOW before AS (PARTITION BY run, site ORDER BY moment)
),
germinated AS (
    SELECT run, epoch, min(moment) AS moment, row_number() OVER (PARTITION BY run ORDER BY epoch) AS germinations
    FROM outcomes WHERE status = 'applied' AND command = 'germinate' GROUP BY run, epoch
)
SELECT
    a.run, a.moment, concat('seed ', a.seed, ' of site ', a.site) AS whose,
    concat(coalesce(k.stage, 'DORMANT'), ', life ', k.life, ', since epoch ', coalesce(k.since_epoch, 0), ', ', k.blueprint) AS folded,
    CASE WHEN t.run IS NULL THEN 'no row' ELSE concat(t.stage, ', life ', t.life, ', since epoch ', t.since_epoch, ', ', t.blueprint) END AS told
FROM slots AS a
LEFT JOIN told AS t USING (run, moment, site, seed)
ASOF LEFT JOIN moved AS k ON k.run = a.run AND k.site = a.site AND k.seed = a.seed AND k.moment < a.moment
UNION ALL
SELECT
    t.run, t.moment, concat('seed ', t.seed, ' of site ', t.site),
    concat('evaluation ', e.id, ', mean ', e.evaluation_mean), concat('evaluation ', t.evaluated, ', mean ', t.evaluation.mean)
FROM told AS t
LEFT JOIN evaluations AS e
ON e.run = t.run AND e.id = t.evaluated AND e.site = t.site AND e.seed = t.seed AND e.life = t.life AND e.moment < t.moment
WHERE t.evaluated IS NOT NULL
UNION ALL
SELECT
    s.run, s.moment, concat('site ', s.site),
    concat(coalesce(c.refused, 0), ' refusals, ', coalesce(c.failed, 0), ' failures'), concat(s.refused, ' refusals, ', s.failed, ' failures')
FROM site_health AS s ASOF LEFT JOIN counted AS c ON c.run = s.run AND c.site = s.site AND c.moment < s.moment
UNION ALL
SELECT
    e.run, e.moment, concat('epoch ', e.epoch),
    concat(coalesce(g.germinations, 0), ' germinations, validation loss ', e.validation_loss),
    concat(e.system_germinations, ' germinations, validation loss ', e.system_validation_losses[-1])
FROM epochs AS e ASOF LEFT JOIN germinated AS g ON g.run = e.run AND g.moment < e.moment

-- violations
SELECT run, moment, concat(whose, ': expected ', folded, ', as the log has it, got ', told) AS what FROM population WHERE folded <> told
