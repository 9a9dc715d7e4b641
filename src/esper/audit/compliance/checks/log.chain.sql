-- name = "log.chain"
-- version = 1
-- title = "The chain of every record follows from its predecessor's."
-- proves = "No record was changed, removed or moved after it was written, unless every later chain of its topic was recomputed too."
-- cannot_show = "That nobody recomputed all chains: they have no key. Where an older copy of the log, of this projection or of a tail exists, log.conflict or a comparison shows it. A record behind telemetry that Kafka had deleted is left out."
-- clauses = ["21 CFR 11.10(a)", "21 CFR 11.10(c)"]

-- population
SELECT run, topic, sequence, moment, follows FROM events AS e
WHERE file = 'run'
AND (run, topic, sequence) NOT IN (SELECT (run, topic, last + 1) FROM gone_ranges)

-- violations
SELECT run, moment, format('topic {}, sequence {}: expected the chain that follows from its predecessor, got another', topic, sequence) AS what
FROM population WHERE follows IS NOT true
