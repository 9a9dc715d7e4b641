-- name = "log.clock_sane"
-- version = 1
-- title = "Time does not go back in what one process writes."
-- proves = "The order of times is the order of writing."
-- cannot_show = "That the clock was right."
-- clauses = ["21 CFR 11.10(e)"]

-- population
SELECT run, moment, time, lag(time) OVER (PARTITION BY run ORDER BY "row") AS before FROM events WHERE file = 'run'

-- violations
SELECT run, moment, format('expected a time not before {}, got {}', before, time) AS what FROM population WHERE time < before
