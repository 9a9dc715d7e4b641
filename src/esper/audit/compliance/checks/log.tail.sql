-- name = "log.tail"
-- version = 1
-- title = "A run that ended has the last records that its end names, and its mark is of this end."
-- proves = "No record was removed from the end of a topic after the run ended, and the summary in the mark is what the log says."
-- cannot_show = "That a run without an end had no further records. A topic whose last telemetry Kafka had deleted is left out."
-- clauses = ["21 CFR 11.10(c)"]

-- population
WITH named AS (
    SELECT run, moment, tail.topic AS topic, tail.sequence AS sequence, tail.chain AS chain FROM (SELECT run, moment, unnest(tails) AS tail FROM run_ends)
),
stood AS (
    SELECT n.run, n.moment, e.topic, max(e.sequence) AS sequence, lower(hex(arg_max(e.chain, e.sequence))) AS chain
    FROM run_ends AS n JOIN events AS e ON e.run = n.run AND e.moment < n.moment AND e.file = 'run'
    GROUP BY n.run, n.moment, e.topic
)
SELECT
    run, moment, topic,
    CASE WHEN n.sequence IS NULL THEN 'no record' ELSE concat('sequence ', n.sequence, ', chain ', n.chain) END AS expected,
    CASE WHEN s.sequence IS NULL THEN 'none' ELSE concat('sequence ', s.sequence, ', chain ', s.chain) END AS found
FROM named AS n FULL JOIN stood AS s USING (run, moment, topic)
WHERE NOT EXISTS (
    FROM gone_ranges AS g
    WHERE g.run = n.run AND g.topic = n.topic AND g.first = coalesce(s.sequence, 0) + 1 AND g.last >= n.sequence
)
UNION ALL
SELECT
    run, last.moment, 'the mark' AS topic,
    concat(last."row", ' records up to moment ', last.moment, ', epoch ', e.epoch, ', ', e.parameters, ' parameters, ', e.metrics) AS expected,
    CASE WHEN mark IS NULL THEN 'nothing that can be read'
        ELSE concat(
            mark.records, ' records up to moment ', mark.moment, ', epoch ', mark.summary.epochs, ', ', mark.summary.parameters, ' parameters, ',
            mark.summary.metrics
        )
    END AS found
FROM (
    SELECT run, TRY(from_json_strict(mark, '{
        "records": "BIGINT", "moment": "BIGINT",
        "summary": {"epochs": "BIGINT", "parameters": "BIGINT", "metrics": "MAP(VARCHAR, DOUBLE)"}
    }')) AS mark
    FROM positions WHERE mark IS NOT NULL AND file = 'run'
)
JOIN (SELECT run, max("row") AS "row", max(moment) AS moment FROM events WHERE file = 'run' GROUP BY run) AS last USING (run)
LEFT JOIN run_ends AS e ON e.run = last.run AND e.moment = last.moment AND e.status = 'finished'

-- violations
SELECT run, moment, concat(topic, ': expected ', expected, '; got ', found) AS what FROM population WHERE expected IS DISTINCT FROM found
