-- name = "log.conflict"
-- version = 1
-- title = "No record has two contents, and no older incarnation of a run wrote after a newer one."
-- proves = "What was read before still stands in the log as it was read, and no two processes wrote the run at once."
-- cannot_show = "What was altered before the first reading, or in a log that was not compared since (positions.compared_at)."
-- clauses = ["21 CFR 11.10(a)"]

-- population
SELECT run FROM events

-- violations
WITH written AS (
    SELECT
        run, topic, incarnation, min("row") AS first_row, max("row") AS last_row, min(sequence) AS first, max(sequence) AS last,
        max(moment) AS last_moment
    FROM events WHERE file = 'run' GROUP BY run, topic, incarnation
)
SELECT
    run, coalesce(moment, 0) AS moment,
    format('row {} of the file {}, topic {}: {} since it was read; noticed {}', "row", file, topic, what, noticed_at) AS what
FROM conflicts
UNION ALL
SELECT
    one.run, other.moment,
    format('topic {}, sequence {}: expected the content that it has at moment {}, got another', one.topic, one.sequence, one.moment)
FROM events AS one
JOIN (FROM events WHERE problem IS NOT NULL AND file = 'run') AS other USING (run, topic, sequence)
WHERE one.file = 'run' AND one."row" < other."row" AND (one.data, one.chain) IS DISTINCT FROM (other.data, other.chain)
UNION ALL
SELECT
    older.run, older.last_moment,
    format(
        'topic {}: expected incarnation {} to have ended before incarnation {} wrote sequence {}, got its sequence {} after that',
        older.topic, older.incarnation, newer.incarnation, newer.first, older.last
    )
FROM written AS older JOIN written AS newer USING (run, topic)
WHERE newer.incarnation > older.incarnation AND newer.first_row < older.last_row
