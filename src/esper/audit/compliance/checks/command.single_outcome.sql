-- name = "command.single_outcome"
-- version = 1
-- title = "Every command has exactly one outcome, after it, about the same seed, in time."
-- proves = "Of every command that was issued it is known what became of it, and no outcome stands without its command."
-- cannot_show = "What becomes of the commands that a run has issued last and, interrupted, not yet answered: they are left out."
-- clauses = ["21 CFR 11.10(e)"]

-- population
WITH over AS (
    SELECT run, max(moment) AS moment
    FROM (SELECT run, moment FROM epochs UNION ALL SELECT run, moment FROM rollbacks UNION ALL SELECT run, moment FROM run_ends)
    GROUP BY run
),
answered AS (
    SELECT run, cause, count(*) AS outcomes, min(moment) AS first FROM outcomes WHERE status <> 'decision refused' GROUP BY run, cause
)
SELECT c.run, c.moment, c.id, c.command, c.site, c.seed, coalesce(a.outcomes, 0) AS outcomes, a.first
FROM commands AS c
LEFT JOIN answered AS a ON a.run = c.run AND a.cause = c.id
LEFT JOIN over AS o ON o.run = c.run
WHERE a.outcomes IS NOT NULL OR c.moment < o.moment

-- violations
SELECT run, moment, format('{} of seed {} of site {}: expected one outcome, got {}', command, seed, site, outcomes) AS what
FROM population WHERE outcomes <> 1
UNION ALL
SELECT run, moment, format('{} of seed {} of site {}: expected its outcome after it, got one at moment {}', command, seed, site, first)
FROM population WHERE first <= moment
UNION ALL
SELECT o.run, o.moment, format('{} of seed {} of site {}: expected a command as its cause, got {}', o.command, o.seed, o.site, coalesce(o.cause, 'none'))
FROM outcomes AS o LEFT JOIN commands AS c ON c.run = o.run AND c.id = o.cause
WHERE o.status <> 'decision refused' AND c.id IS NULL
UNION ALL
SELECT
    o.run, o.moment,
    format('expected an outcome of {} of seed {} of site {}, got one of {} of seed {} of site {}', c.command, c.seed, c.site, o.command, o.seed, o.site)
FROM outcomes AS o JOIN commands AS c ON c.run = o.run AND c.id = o.cause
WHERE o.status <> 'decision refused' AND (o.command, o.site, o.seed) IS DISTINCT FROM (c.command, c.site, c.seed)
UNION ALL
SELECT o.run, o.moment, format('{} of seed {} of site {}: expected it by the end of epoch {}, applied after epoch {}', c.command, c.seed, c.site, c.expires_epoch, o.epoch)
FROM outcomes AS o JOIN commands AS c ON c.run = o.run AND c.id = o.cause
WHERE o.status = 'applied' AND o.epoch > c.expires_epoch
