-- name = "health.coverage"
-- version = 1
-- title = "The health of every seed that computes is in the SystemState of every epoch."
-- proves = "No decision about a seed was taken without a measurement of it."
-- cannot_show = "That the measurement was right. Left out are seeds that have no kernel yet, and those that were disabled after a value that is not finite."
-- clauses = ["NIST AI RMF MEASURE 2.4"]

-- population
SELECT s.run, s.moment, s.epoch, s.site, s.seed, s.stage, s.activation_variance
FROM seed_states AS s SEMI JOIN epochs AS e USING (run, moment)
WHERE s.stage IN (FROM live_stages) AND s.stage NOT IN ('GERMINATED', 'LOADING') AND NOT s.recovering

-- violations
SELECT run, moment, format('epoch {}, seed {} of site {}, {}: expected its health, got none', epoch, seed, site, stage) AS what
FROM population WHERE activation_variance IS NULL
