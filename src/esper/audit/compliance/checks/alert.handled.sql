-- name = "alert.handled"
-- version = 1
-- title = "Of every alert that fired, a handler was told within 15 minutes, or it was held back by a rule."
-- proves = "Each alert reached someone, or the log says why it was not sent: a rate limit, or its age."
-- cannot_show = "That anyone read it. An alert that fired less than 15 minutes before the projection was read, and has no outcome yet, is left out."
-- clauses = ["SOC 2 CC7.2", "SOC 2 CC7.3", "NIST AI RMF MANAGE 4.3"]

-- population
WITH told AS (
    SELECT run, alert, min(time) FILTER (outcome = 'delivered' OR status = 'suppressed') AS handled, count(*) AS outcomes
    FROM notifications GROUP BY run, alert
)
SELECT a.run, a.moment, a.rule, a.labels, a.time, coalesce(t.outcomes, 0) AS outcomes, t.handled, t.handled - a.time AS took
FROM alerts AS a
LEFT JOIN told AS t ON t.run = a.run AND t.alert = a.id
LEFT JOIN (SELECT run, min(read_at) AS read_at FROM positions GROUP BY run) AS p ON p.run = a.run
WHERE a.status = 'firing' AND (t.outcomes IS NOT NULL OR p.read_at > a.time + INTERVAL 15 MINUTE)

-- violations
SELECT
    run, moment,
    format('{} {}: expected a handler to be told within 15 minutes, got {}', rule, labels, CASE
        WHEN outcomes = 0 THEN 'no outcome' WHEN handled IS NULL THEN 'failed deliveries alone' ELSE 'the first delivery after ' || took
    END) AS what
FROM population WHERE NOT coalesce(took <= INTERVAL 15 MINUTE, false)
