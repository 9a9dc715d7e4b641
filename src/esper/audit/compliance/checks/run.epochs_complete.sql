-- name = "run.epochs_complete"
-- version = 1
-- title = "Epochs and steps follow each other without a gap up to the end of the plan, and a loss that is not finite was answered by a rollback or a failure."
-- proves = "No epoch is missing or stands twice, no measured step is missing that was not counted as dropped, and training did not go on over a loss that is not a number."
-- cannot_show = "That the losses are right. An interrupted run is asked as far as it came."
-- clauses = ["EU AI Act Annex IV 2(g)"]

-- population
SELECT run, moment, epoch, is_rollback, train_loss, validation_loss,
    coalesce(max(epoch) OVER (PARTITION BY run ORDER BY moment ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS over,
    coalesce(lead(is_rollback) OVER (PARTITION BY run ORDER BY moment), ended) AS is_answered
FROM (
    SELECT run, moment, epoch, false AS is_rollback, train_loss, validation_loss FROM epochs
    UNION ALL
    SELECT run, moment, from_epoch, true, NULL, NULL FROM rollbacks
)
-- After the last of them: true where the run failed; where it has no end yet, it is still to come.
LEFT JOIN (SELECT run, bool_and(status = 'failed') AS ended FROM run_ends GROUP BY run) USING (run)

-- violations
SELECT run, moment, format('expected epoch {} after epoch {}, got epoch {}', over + 1, over, epoch) AS what
FROM population WHERE epoch <> over + 1 AND NOT (is_rollback AND epoch = over)
UNION ALL
SELECT run, moment, format('epoch {}: expected a rollback or a failure after train loss {} and validation loss {}, got none', epoch, train_loss, coalesce(validation_loss::VARCHAR, 'none'))
FROM population WHERE NOT is_answered AND NOT (coalesce(isfinite(train_loss), true) AND coalesce(isfinite(validation_loss), true))
UNION ALL
SELECT s.run, s.moment, format('step {}: expected a rollback or a failure after loss {}, got epoch {}', s.step, s.loss, p.epoch)
FROM (FROM steps WHERE NOT isfinite(loss)) AS s
JOIN population AS p ON p.run = s.run AND NOT p.is_rollback AND p.moment > s.moment AND p.epoch = s.epoch
UNION ALL
SELECT e.run, e.moment, format('expected {} epochs, as planned, got {}', r.epochs, coalesce(p.epoch, 0))
FROM run_ends AS e JOIN runs AS r USING (run) LEFT JOIN (SELECT run, max(epoch) AS epoch FROM population GROUP BY run) AS p USING (run)
WHERE e.status = 'finished' AND NOT e.stopped_early AND coalesce(p.epoch, 0) <> r.epochs
UNION ALL
SELECT s.run, s.moment, format('expected the measurement of step {} or its count as dropped, got step {} after step {}', before + 1, s.step, before)
FROM (
    SELECT run, moment, step, lag(step) OVER (PARTITION BY run ORDER BY step, moment) AS before FROM steps
) AS s
WHERE s.step > s.before + 1
AND NOT EXISTS (FROM positions AS p WHERE p.run = s.run AND p.gone IS NOT NULL)
AND s.step - s.before - 1 > (
    SELECT coalesce(sum(least(d.last_step, s.step - 1) - greatest(d.first_step, s.before + 1) + 1), 0) FROM dropped_samples AS d
    WHERE d.run = s.run AND d.topic = 'telemetry.training.steps' AND d.first_step < s.step AND d.last_step > s.before
)
