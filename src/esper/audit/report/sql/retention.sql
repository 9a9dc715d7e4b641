-- Topics of this run: how long Kafka keeps a record, and when that is over for the newest one. A directory keeps everything until it is removed.
SELECT
    e.topic, t.kind, count(*) AS records, max(e.time) AS newest, coalesce(t.hours || ' h', 'for ever') AS "kept on Kafka",
    max(e.time) + to_hours(CAST(t.hours AS INTEGER)) AS "gone from Kafka"
FROM events AS e LEFT JOIN (SELECT unnest($topics, recursive := true)) AS t ON t.topic = e.topic
WHERE e.run = $run GROUP BY e.topic, t.kind, t.hours ORDER BY t.hours NULLS FIRST, e.topic
