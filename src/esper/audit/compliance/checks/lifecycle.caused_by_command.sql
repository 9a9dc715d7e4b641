-- name = "lifecycle.caused_by_command"
-- version = 1
-- title = "Every transition of a seed follows from an applied command for that seed, or from a rollback."
-- proves = "Nothing changed the structure of the network but commands that stand in the log before, and rollbacks."
-- cannot_show = "That the network was not changed without a record."
-- clauses = ["EU AI Act Art. 12(2)(a)", "SOC 2 CC8.1"]

-- population
SELECT
    t.run, t.moment, t.site, t.seed, t.from_stage, t.to_stage, t.cause, o.command,
    CASE
        WHEN t.to_stage = 'ROLLED_BACK' THEN EXISTS (FROM rollbacks AS r WHERE r.run = t.run AND r.id = t.cause AND r.moment < t.moment)
        ELSE coalesce(o.status = 'applied' AND o.moment < t.moment AND o.site = t.site AND o.seed = t.seed AND c.moment < o.moment, false)
            AND EXISTS (FROM legal_edges AS e WHERE e.command = o.command AND e.to_stage = t.to_stage)
    END AS is_caused
FROM transitions AS t
LEFT JOIN outcomes AS o ON o.run = t.run AND o.id = t.cause
LEFT JOIN commands AS c ON c.run = o.run AND c.id = o.cause

-- violations
SELECT
    run, moment,
    format(
        'seed {} of site {}, {} to {}: expected an earlier applied command for it as the cause, got {}',
        seed, site, from_stage, to_stage, coalesce(format('{} of {}', command, cause), cause, 'none')
    ) AS what
FROM population WHERE NOT is_caused
