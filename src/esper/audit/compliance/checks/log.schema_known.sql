-- name = "log.schema_known"
-- version = 1
-- title = "Every record is of a known kind, fits its schema, and blocks nothing."
-- proves = "Every record could be read by this version, and stands in the tables that other checks ask."
-- cannot_show = "That what the records say is true."
-- clauses = ["21 CFR 11.10(a)"]

-- population
SELECT run, moment, topic, problem FROM events

-- violations
SELECT run, moment, format('topic {}: {}', topic, problem) AS what FROM population
-- A number or an incarnation that does not continue the topic is a matter of log.sequence and log.conflict.
WHERE problem IS NOT NULL AND NOT starts_with(problem, format('run {}, topic {}, sequence ', run, topic))
UNION ALL
SELECT b.run, b.moment, format('topic {} is blocked at sequence {}: {}', b.topic, b.sequence, b.reason)
FROM observers AS b
WHERE b.status = 'blocked' AND NOT EXISTS (
    FROM observers AS u
    WHERE u.run = b.run AND u.status = 'unblocked' AND u.time >= b.time AND list_contains(u.topics, b.topic)
)
