-- name = "log.readable"
-- version = 1
-- title = "The files of a run can be read to their end."
-- proves = "Every other check looked at all that stands in the run's files, as they were when the projection last read them."
-- cannot_show = "That the files hold all that was ever written: log.sequence, log.tail and log.conflict ask for that."
-- clauses = ["21 CFR 11.10(c)"]

-- population
SELECT run, file, problem FROM positions

-- violations
SELECT
    p.run, coalesce((SELECT max(e.moment) FROM events AS e WHERE e.run = p.run), 0) AS moment,
    format('expected to read the file {} to its end, got: {}', file, problem) AS what
FROM population AS p WHERE problem IS NOT NULL
