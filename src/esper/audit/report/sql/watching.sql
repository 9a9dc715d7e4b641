-- What was recorded of this run's monitoring, and by whom it was watched.
WITH counted AS (
    SELECT 1 AS place, 'observers that started' AS what, count(*) AS amount, min(time) AS first, max(time) AS last
    FROM observers WHERE run = $run AND status = 'started'
    UNION ALL SELECT 2, 'optimizer steps taken', max(step), min(time), max(time) FROM events WHERE run = $run AND file = 'run'
    UNION ALL SELECT 3, 'optimizer steps with a measurement', count(DISTINCT step), min(time), max(time) FROM steps WHERE run = $run
    UNION ALL SELECT 4, 'measurements of health', count(DISTINCT moment), min(time), max(time) FROM health_signals WHERE run = $run
    UNION ALL SELECT 5, 'heartbeats', count(*), min(time), max(time) FROM heartbeats WHERE run = $run
    UNION ALL
    SELECT 6, 'epochs after all that an observer derived', count(*), min(time), max(time) FROM epochs
    WHERE run = $run AND moment > (SELECT coalesce(max(moment), 0) FROM events WHERE run = $run AND file = 'observed')
)
SELECT what, amount, first, last FROM counted ORDER BY place
