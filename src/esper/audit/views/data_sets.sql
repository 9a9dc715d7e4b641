-- Data sets of runs, with their fingerprints; digest NULL: samples could not be indexed.
CREATE VIEW data_sets AS
SELECT run, part.name AS name, part.length AS length, part.kind AS kind, part.digest AS digest
FROM (SELECT run, unnest(data) AS part FROM runs)
