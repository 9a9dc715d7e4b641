-- What was corrected: rollbacks, resumes, ends that a resume undid, checkpoints that were passed over, and folds that went on.
WITH stops AS (
    SELECT moment, 'it had failed: ' || error AS why FROM run_ends WHERE run = $run AND status = 'failed'
    UNION ALL
    SELECT moment, 'it had been stopped' FROM events WHERE run = $run AND topic = 'system.events.run' AND type = 'esper.stream.ended.v1'
),
resumed AS (SELECT *, lag(moment, 1, 0) OVER (ORDER BY moment) AS earlier FROM resumes WHERE run = $run)
SELECT moment, time, epoch, 'rollback' AS what,
    format('from epoch {} to the end of epoch {}, checkpoint {}', from_epoch, to_epoch, checkpoint) AS how, reason AS why,
    coalesce('site ' || blamed_site || ' slot ' || blamed_seed, 'no seed is blamed') AS "blamed or changed"
FROM rollbacks WHERE run = $run
UNION ALL
SELECT r.moment, r.time, r.epoch, 'resume', format('from {}, caught up to moment {}', coalesce(r.checkpoint, 'the first epoch'), r.caught_up_to),
    coalesce((SELECT arg_max(why, moment) FROM stops AS s WHERE s.moment BETWEEN r.earlier AND r.moment), 'its process was gone without a word'),
    nullif(array_to_string(r.environment_changes, '; '), '')
FROM resumed AS r
UNION ALL
SELECT moment, time, epoch, 'fold unblocked', 'a newer observer read on', 'topics had been blocked', array_to_string(topics, ', ')
FROM observers WHERE run = $run AND status = 'unblocked'
ORDER BY moment, time, what, how
