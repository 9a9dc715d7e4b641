-- What the model that came out was measured at, and on which data.
SELECT e.time AS "when", entry.key AS metric, entry.value AS figure, d.name AS "data set", d.length AS samples, d.digest AS "digest of the data"
FROM (SELECT run, time, unnest(map_entries(metrics)) AS entry FROM run_ends WHERE run = $run AND status = 'finished') AS e
LEFT JOIN data_sets AS d ON d.run = e.run AND d.name = CASE WHEN starts_with(entry.key, 'test') THEN 'test' WHEN starts_with(entry.key, 'validation') THEN 'valid' END
ORDER BY e.time, metric, "data set"
