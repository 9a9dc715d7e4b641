-- What happened beside the stages: refusals, alerts, corrections, ends, and what monitoring did not see. `until`: where it reaches back to.
SELECT moment, epoch, NULL AS until, 'refused' AS kind, coalesce(adaptation || ': ', '') || coalesce(rule || ', ', '') || detail AS what
FROM decision_fates WHERE run = $run AND fate IN ('refused', 'command refused', 'failed')
UNION ALL SELECT moment, epoch, NULL, 'refused', 'kernel failed: ' || error FROM kernels WHERE run = $run AND status = 'failed'
UNION ALL SELECT moment, epoch, NULL, 'alert', severity || ' ' || rule FROM alerts WHERE run = $run AND status = 'firing'
UNION ALL SELECT moment, epoch, to_epoch, 'rollback', format('rollback to the end of epoch {}: {}', to_epoch, reason) FROM rollbacks WHERE run = $run
UNION ALL SELECT moment, epoch, NULL, 'resume', 'resumed from ' || coalesce(checkpoint, 'the first epoch') FROM resumes WHERE run = $run
UNION ALL SELECT moment, epoch, NULL, 'end', 'run ' || status || coalesce(': ' || error, '') FROM run_ends WHERE run = $run
UNION ALL SELECT moment, epoch, NULL, 'dark', format('{} samples of {} dropped', count, topic) FROM dropped_samples WHERE run = $run
UNION ALL SELECT moment, epoch, NULL, 'dark', status || coalesce(' ' || topic, '') FROM observers WHERE run = $run AND status IN ('went silent', 'blocked')
UNION ALL
SELECT moment, epoch, NULL, 'dark', format('no record for {:.0f} s', seconds)
FROM (
    SELECT moment, epoch, CAST(date_diff('millisecond', lag(time) OVER (ORDER BY "row"), time) AS DOUBLE) / 1000 AS seconds
    FROM events WHERE run = $run AND file = 'run'
) WHERE seconds > 60
ORDER BY moment, kind, what
