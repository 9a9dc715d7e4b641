-- name = "log.sequence"
-- version = 1
-- title = "Records are numbered without gaps: in each topic, over the facts, and over the run."
-- proves = "No record is missing between two others, and none stands twice."
-- cannot_show = "That nothing was written after the last record (log.tail), or that the numbers were not given anew after one was removed. Telemetry that Kafka had deleted before it was copied is left out."
-- clauses = ["21 CFR 11.10(e)"]

-- population
SELECT run FROM events WHERE file = 'run'

-- violations
WITH numbered AS (
    SELECT run, 'topic ' || topic AS whose, topic, 'sequence' AS kind, sequence AS number, moment, "row" FROM events
    WHERE file = 'run' AND (run, topic) IN (
        SELECT (run, topic) FROM events WHERE file = 'run' GROUP BY run, topic
        HAVING min(sequence) <> 1 OR max(sequence) <> count(*) OR count(problem) > 0 -- A sequence that stands twice is a problem.
    )
    UNION ALL
    SELECT run, 'the facts', NULL, 'fact', fact, moment, "row" FROM events
    WHERE fact IS NOT NULL AND file = 'run' AND run IN (
        SELECT run FROM events WHERE fact IS NOT NULL AND file = 'run' GROUP BY run
        HAVING min(fact) <> 1 OR max(fact) <> count(*) OR count(DISTINCT fact) <> count(*)
    )
    UNION ALL
    SELECT run, 'the run', NULL, 'moment', moment, moment, "row" FROM events
    WHERE type <> 'esper.run.heartbeat.v1' AND file = 'run' AND run IN (
        SELECT run FROM events WHERE type <> 'esper.run.heartbeat.v1' AND file = 'run' GROUP BY run
        HAVING min(moment) <> 1 OR max(moment) <> count(*) OR count(DISTINCT moment) <> count(*)
    )
),
followed AS (
    SELECT *, lag(number, 1, 0) OVER (PARTITION BY run, whose ORDER BY "row") AS before FROM numbered
)
SELECT run, moment, format('{}: expected {} {} after {}, got {}', whose, kind, before + 1, before, number) AS what
FROM followed AS f
WHERE number <> before + 1
AND NOT (number > before AND kind = 'moment' AND EXISTS (FROM positions AS p WHERE p.run = f.run AND p.gone IS NOT NULL))
AND NOT EXISTS (
    FROM gone_ranges AS g
    WHERE g.run = f.run AND g.topic = f.topic AND kind = 'sequence' AND g.first = f.before + 1 AND g.last = f.number - 1
)
