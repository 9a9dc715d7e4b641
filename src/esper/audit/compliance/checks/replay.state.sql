-- name = "replay.state"
-- version = 1
-- title = "The seed table in every EpochCompleted is the one that the transitions and rollbacks before it lead to."
-- proves = "What the controller was told about the seeds is what the log says of them."
-- cannot_show = "That the numbers measured on the seeds are right."
-- clauses = ["21 CFR 11.10(a)", "NIST AI RMF MEASURE 2.13"]

-- population
WITH known AS (
    SELECT run, moment, site, seed, to_stage AS stage, life, epoch AS since_epoch, blueprint FROM transitions
    UNION ALL
    SELECT s.run, s.moment, s.site, s.seed, s.stage, s.life, s.since_epoch, s.blueprint
    FROM seed_states AS s SEMI JOIN rollbacks AS r USING (run, moment)
),
slots AS (
    SELECT run, site.name AS site, unnest(range(site.slots)) AS seed FROM (SELECT run, unnest(sites) AS site FROM runs)
),
told AS (SELECT s.* FROM seed_states AS s SEMI JOIN epochs AS e USING (run, moment)),
asked AS (
    SELECT e.run, e.moment, s.site, s.seed FROM epochs AS e JOIN slots AS s USING (run)
    UNION SELECT run, moment, site, seed FROM told
)
SELECT
    a.run, a.moment, a.site, a.seed,
    format('{}, life {}, since epoch {}, {}', coalesce(k.stage, 'DORMANT'), coalesce(k.life::VARCHAR, 'none'), coalesce(k.since_epoch, 0), coalesce(k.blueprint, 'no blueprint')) AS folded,
    CASE WHEN t.run IS NULL THEN 'no row'
        ELSE format('{}, life {}, since epoch {}, {}', t.stage, coalesce(t.life::VARCHAR, 'none'), t.since_epoch, coalesce(t.blueprint, 'no blueprint'))
    END AS told
FROM asked AS a
LEFT JOIN told AS t USING (run, moment, site, seed)
ASOF LEFT JOIN known AS k ON k.run = a.run AND k.site = a.site AND k.seed = a.seed AND k.moment < a.moment

-- violations
SELECT run, moment, format('seed {} of site {}: expected {}, as the log has it, got {}', seed, site, folded, told) AS what
FROM population WHERE folded <> told
