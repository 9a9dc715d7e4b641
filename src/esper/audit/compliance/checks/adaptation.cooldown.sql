-- name = "adaptation.cooldown"
-- version = 1
-- title = "Germinations kept the cooldown, adaptations the frequency, and no slot was used again before its embargo was over."
-- proves = "The limits on time were kept: cooldown and frequency as they stood in the SystemState before, embargoes as the seed table had them."
-- cannot_show = "That the limits were good ones."
-- clauses = ["NIST AI RMF MAP 4.2"]

-- population
WITH applied AS (
    SELECT run, moment, epoch, command, site, seed FROM outcomes
    WHERE status = 'applied' AND command IN ('germinate', 'graft', 'fossilize', 'reset')
),
germinated AS (
    SELECT run, epoch, lag(epoch) OVER (PARTITION BY run ORDER BY epoch) AS earlier
    FROM (SELECT DISTINCT run, epoch FROM applied WHERE command = 'germinate')
)
SELECT
    a.run, a.moment, a.epoch, a.command, a.site, a.seed, s.embargo_until,
    CASE WHEN a.command = 'germinate' THEN g.earlier END AS earlier,
    CASE WHEN a.command = 'germinate' THEN e.system_gate_cooldown END AS cooldown,
    CASE WHEN a.command <> 'reset' THEN e.system_gate_adaptation_every END AS every
FROM applied AS a
LEFT JOIN germinated AS g ON g.run = a.run AND g.epoch = a.epoch
ASOF LEFT JOIN epochs AS e ON e.run = a.run AND e.moment < a.moment
LEFT JOIN seed_states AS s ON s.run = e.run AND s.moment = e.moment AND s.site = a.site AND s.seed = a.seed

-- violations
WITH named AS (SELECT *, format('epoch {}, {} of seed {} of site {}', epoch, command, seed, site) AS whose FROM population)
SELECT run, moment, format('{}: expected {} epochs since the germination after epoch {}', whose, coalesce(cooldown::VARCHAR, 'a known number of'), earlier) AS what
FROM named WHERE earlier IS NOT NULL AND NOT coalesce(epoch >= earlier + cooldown, false)
UNION ALL
SELECT run, moment, format('{}: expected an epoch divisible by {}', whose, coalesce(every::VARCHAR, 'a known number'))
FROM named WHERE command <> 'reset' AND NOT coalesce(epoch % every = 0, false)
UNION ALL
SELECT run, moment, format('{}: expected none before epoch {}, until which the slot is under embargo', whose, embargo_until)
FROM named WHERE epoch < embargo_until
