-- Sequences of telemetry that a copy made from Kafka lacks, because they had been deleted there: a row for each range.
CREATE VIEW gone_ranges AS
SELECT run, entry.key AS topic, span[1] AS first, span[2] AS last
FROM (
    SELECT run, entry, unnest(entry.value) AS span
    FROM (
        SELECT run, unnest(map_entries(from_json_strict(gone, '{"topics": "MAP(VARCHAR, BIGINT[][])"}').topics)) AS entry
        FROM positions
        WHERE gone IS NOT NULL
    )
)
