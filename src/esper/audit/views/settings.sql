-- Settings of runs as they started, a row each: the dotted name and its value as JSON.
CREATE VIEW settings AS
SELECT run, moment, time, entry.key AS name, entry.value AS value
FROM (SELECT run, moment, time, unnest(map_entries(settings)) AS entry FROM runs)
