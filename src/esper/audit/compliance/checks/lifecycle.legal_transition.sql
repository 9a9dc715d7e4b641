-- name = "lifecycle.legal_transition"
-- version = 1
-- title = "Every transition of a seed begins at the seed's stage, and is an edge of the lifecycle."
-- proves = "No seed came to a stage but by the edges of docs/lifecycle.md; ROLLED_BACK was entered only where a rollback blamed the seed."
-- cannot_show = "That the network did what the stage says."
-- clauses = ["21 CFR 11.10(f)", "EU AI Act Annex IV 2"]

-- population
WITH known AS (
    SELECT run, moment, site, seed, to_stage AS stage FROM transitions
    UNION ALL
    SELECT s.run, s.moment, s.site, s.seed, s.stage FROM seed_states AS s SEMI JOIN rollbacks AS r USING (run, moment)
)
SELECT
    t.run, t.moment, t.site, t.seed, t.from_stage, t.to_stage, coalesce(k.stage, 'DORMANT') AS stage,
    CASE
        WHEN t.to_stage = 'ROLLED_BACK'
        THEN EXISTS (FROM rollbacks AS r WHERE r.run = t.run AND r.id = t.cause AND r.blamed_site = t.site AND r.blamed_seed = t.seed)
        ELSE EXISTS (FROM legal_edges AS e WHERE e.from_stage = t.from_stage AND e.to_stage = t.to_stage)
    END AS is_legal
FROM transitions AS t
ASOF LEFT JOIN known AS k ON k.run = t.run AND k.site = t.site AND k.seed = t.seed AND k.moment < t.moment

-- violations
SELECT run, moment, format('seed {} of site {}: expected a transition from {}, got one from {} to {}', seed, site, stage, from_stage, to_stage) AS what
FROM population WHERE from_stage <> stage
UNION ALL
SELECT run, moment, format('seed {} of site {}: expected an edge of the lifecycle, got one from {} to {}', seed, site, from_stage, to_stage)
FROM population WHERE NOT is_legal
