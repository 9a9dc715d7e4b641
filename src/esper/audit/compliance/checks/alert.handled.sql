-- name = "alert.handled"
-- version = 2
-- title = "Of every alert that fired, a handler was told within 15 minutes, or it was held back by a rule, or a person took it over."
-- proves = "Each alert reached someone, or the log says why it was not sent: a rate limit, its age, or a person who had taken it over."
-- cannot_show = "That anyone read it. An alert that fired less than 15 minutes before the projection was read, and has no outcome yet, is left out."
-- clauses = ["SOC 2 CC7.2", "SOC 2 CC7.3", "NIST AI RMF MANAGE 4.3"]

-- population
WITH told AS (
    SELECT run, alert, min(time) FILTER (outcome = 'delivered' OR status = 'suppressed') AS handled, count(*) AS outcomes
    FROM notifications GROUP BY run, alert
),
taken AS (
    SELECT a.run, a.id AS alert, min(greatest(k.time, a.time)) AS handled
    FROM alerts AS a JOIN acknowledgements AS k ON k.about = a.run AND k.fingerprint = a.fingerprint
    WHERE strptime(k.until, '%Y-%m-%dT%H:%M:%SZ') > a.time GROUP BY a.run, a.id
)
SELECT
    a.run, a.moment, a.rule, a.labels, a.time, coalesce(t.outcomes, 0) AS outcomes,
    least(t.handled, k.handled) AS handled, least(t.handled, k.handled) - a.time AS took
FROM alerts AS a
LEFT JOIN taken AS k ON k.run = a.run AND k.alert = a.id
LEFT JOIN told AS t ON t.run = a.run AND t.alert = a.id
LEFT JOIN (SELECT run, min(read_at) AS read_at FROM positions GROUP BY run) AS p ON p.run = a.run
WHERE a.status = 'firing' AND (t.outcomes IS NOT NULL OR p.read_at > a.time + INTERVAL 15 MINUTE)

-- violations
SELECT
    run, moment,
    format('{} {}: expected a handler to be told within 15 minutes, got {}', rule, labels, CASE
        WHEN outcomes = 0 THEN 'no outcome' WHEN handled IS NULL THEN 'failed deliveries alone' ELSE 'the first outcome after ' || took
    END) AS what
FROM population WHERE NOT coalesce(took <= INTERVAL 15 MINUTE, false)
