-- name = "command.from_decision"
-- version = 1
-- title = "Every command follows from one earlier decision about the same seed, which the gate did not refuse and which no other command follows from."
-- proves = "No command was issued without a decision, or for one that was refused."
-- cannot_show = "That the decision was right."
-- clauses = ["NIST AI RMF MAP 4.2"]

-- population
SELECT
    c.run, c.moment, c.command, c.site, c.seed, c.cause, d.moment AS decided, d.adaptation, d.site AS decided_site, d.seed AS decided_seed,
    count(*) OVER (PARTITION BY c.run, c.cause) AS commands,
    EXISTS (FROM outcomes AS o WHERE o.run = c.run AND o.cause = c.cause AND o.status = 'decision refused') AS is_refused
FROM commands AS c LEFT JOIN decisions AS d ON d.run = c.run AND d.id = c.cause

-- violations
WITH named AS (SELECT *, format('{} of seed {} of site {}', command, seed, site) AS whose FROM population)
SELECT run, moment, format('{}: expected an earlier decision as its cause, got {}', whose, coalesce(cause, 'none')) AS what
FROM named WHERE decided IS NULL OR decided >= moment
UNION ALL
SELECT
    run, moment,
    format('{}: expected it to be what was decided, got a decision to {} seed {} of site {}', whose, adaptation, decided_seed, decided_site)
FROM named
WHERE decided IS NOT NULL AND NOT (
    (site, seed) IS NOT DISTINCT FROM (decided_site, decided_seed)
    AND (command = adaptation OR adaptation = 'advance' AND command NOT IN ('germinate', 'graft', 'fossilize', 'cull', 'cancel'))
)
UNION ALL
SELECT run, moment, format('{}: expected one command from {}, got {}', whose, cause, commands) FROM named WHERE commands > 1 AND decided IS NOT NULL
UNION ALL
SELECT run, moment, format('{}: expected none from {}, which the gate refused', whose, cause) FROM named WHERE is_refused
