-- The files of this run's log: how far each was read, and when it was last compared with what had been read before.
SELECT
    file, records, read_at AS "last read", compared_at AS "last compared", coalesce(problem, 'none') AS problem,
    CASE WHEN gone IS NULL THEN 'nothing' ELSE 'telemetry that Kafka had deleted' END AS "lacks",
    CASE
        WHEN mark IS NOT NULL THEN TRY(format('{} records up to moment {}', mark ->> '$.records', mark ->> '$.moment'))
        WHEN file = 'run' THEN 'not sealed'
    END AS "what its seal says"
FROM positions WHERE run = $run ORDER BY file DESC
