-- Times in which nothing, or not everything, was seen of this run, and what was lost.
WITH signs AS (
    SELECT time, moment, epoch, type, lag(time) OVER w AS before
    FROM events WHERE run = $run AND file = 'run' WINDOW w AS (ORDER BY "row")
)
SELECT
    before AS "from", time AS "to", CAST(date_diff('millisecond', before, time) AS DOUBLE) / 1000 AS seconds, epoch,
    CASE WHEN type = 'esper.run.resumed.v1' THEN 'no process' ELSE 'no record' END AS what,
    CASE WHEN type = 'esper.run.resumed.v1' THEN 'then it was resumed' ELSE 'the process wrote nothing, not even a heartbeat' END
        AS "what is known",
    CAST(NULL AS BIGINT) AS lost
FROM signs WHERE type = 'esper.run.resumed.v1' OR date_diff('millisecond', before, time) > 60000
UNION ALL
SELECT s.time, h.time, CAST(date_diff('millisecond', s.time, h.time) AS DOUBLE) / 1000, s.epoch, 'silent',
    'an observer heard nothing: ' || CASE s.state WHEN 'idle' THEN 'heartbeats alone' ELSE 'its process was gone, or hung' END, NULL
FROM observers AS s ASOF LEFT JOIN (FROM observers WHERE status = 'heard again') AS h ON h.run = s.run AND h.time >= s.time
WHERE s.run = $run AND s.status = 'went silent'
UNION ALL
SELECT b.time, u.time, CAST(date_diff('millisecond', b.time, u.time) AS DOUBLE) / 1000, b.epoch, 'blocked',
    format('{} was not understood from sequence {} on: {}', b.topic, b.sequence, b.reason), NULL
FROM observers AS b ASOF LEFT JOIN (FROM observers WHERE status = 'unblocked') AS u ON u.run = b.run AND u.time >= b.time
WHERE b.run = $run AND b.status = 'blocked'
UNION ALL
SELECT time, NULL, NULL, epoch, 'dropped', format('{} samples of {}, steps {} to {}: no room', count, topic, first_step, last_step), count
FROM dropped_samples WHERE run = $run
UNION ALL
SELECT NULL, NULL, NULL, NULL, 'gone', format('records of {}, sequences {} to {}: deleted on Kafka before they were copied', topic, first, last),
    last - first + 1
FROM gone_ranges WHERE run = $run
ORDER BY "from" NULLS LAST, what, "what is known"
