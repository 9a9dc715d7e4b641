-- name = "log.chain"
-- version = 1
-- title = "The chain of every record follows from its predecessor's; the id of an observer's own record is that of its content."
-- proves = "No record was changed, removed or moved after it was written, unless every later chain of its topic was recomputed too; and no record of a delivery or of an observer was changed, unless its id was."
-- cannot_show = "That nobody recomputed chains and ids: they have no key. Where an older copy of the log, of this projection or of a tail exists, log.conflict or a comparison shows it. A record behind telemetry that Kafka had deleted is left out."
-- clauses = ["21 CFR 11.10(a)", "21 CFR 11.10(c)"]

-- population
SELECT run, moment, concat('topic ', topic, ', sequence ', sequence) AS whose, follows
FROM events
WHERE file = 'run' AND (run, topic, sequence) NOT IN (SELECT (run, topic, last + 1) FROM gone_ranges)
UNION ALL
SELECT run, moment, concat('topic ', topic, ', id ', id), id = sha256(concat(
    coalesce(cause, run), chr(31), type, chr(31), strftime(time, '%Y-%m-%dT%H:%M:%S.%fZ'), chr(31), data
))[:32]
FROM events
WHERE file = 'observed' AND type IN (
    'esper.alert.notified.v1', 'esper.alert.suppressed.v1', 'esper.observer.started.v1', 'esper.run.went-silent.v1',
    'esper.run.heard-again.v1', 'esper.fold.unblocked.v1'
)

-- violations
SELECT run, moment, concat(whose, ': expected what follows from its content and its predecessor, got another') AS what
FROM population WHERE follows IS NOT true
