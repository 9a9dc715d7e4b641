-- name = "run.manifest_complete"
-- version = 2
-- title = "A run that ended says what it was: code, data, packages, settings, seed and machine; and how it ended."
-- proves = "What is needed to run it again is written down."
-- cannot_show = "That running it again gives the same, or that what is written down is what ran."
-- clauses = ["EU AI Act Annex IV"]

-- population
SELECT u.run, u.moment, r.run IS NOT NULL AS is_started, e.run IS NOT NULL AS is_ended, r.code_revision, d.sources, r.data, r.packages, r.settings, r.rng_seed, r.hardware_machine
FROM (
    SELECT run, max(moment) AS moment FROM (
        SELECT run, moment FROM run_ends
        UNION ALL
        SELECT p.run, coalesce((SELECT max(e.moment) FROM events AS e WHERE e.run = p.run), 0) FROM positions AS p WHERE p.mark IS NOT NULL
    ) GROUP BY run
) AS u
LEFT JOIN (FROM runs QUALIFY row_number() OVER (PARTITION BY run ORDER BY moment) = 1) AS r USING (run)
LEFT JOIN (SELECT DISTINCT run FROM run_ends) AS e USING (run)
LEFT JOIN (FROM descriptions QUALIFY row_number() OVER (PARTITION BY run ORDER BY moment) = 1) AS d USING (run)

-- violations
SELECT run, moment, what FROM (
    SELECT run, moment, unnest([
        CASE WHEN NOT is_ended THEN 'expected an end, RunFinished or RunFailed, got none' END,
        CASE WHEN NOT is_started THEN 'expected a start, RunStarted, got none' END,
        CASE WHEN is_started AND coalesce(code_revision, '') = '' AND sources IS NULL
            THEN 'expected the revision of the code, or its source, got neither' END,
        CASE WHEN is_started AND len(data) = 0 THEN 'expected fingerprints of the data, got none' END,
        CASE WHEN is_started AND cardinality(packages) = 0 THEN 'expected the versions of packages, got none' END,
        CASE WHEN is_started AND cardinality(settings) = 0 THEN 'expected settings, got none' END,
        CASE WHEN is_started AND coalesce(hardware_machine, '') = '' THEN 'expected the machine, got none' END
    ]) AS what FROM population
    UNION ALL
    SELECT run, moment, format('data set {}: expected a digest, got none', part.name)
    FROM (SELECT run, moment, unnest(data) AS part FROM population) WHERE part.digest IS NULL
) WHERE what IS NOT NULL
