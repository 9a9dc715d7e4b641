-- Checkpoints that are kept: the digest in the log, and that of the files when they were last looked at.
SELECT
    k.checkpoint, k.epoch, k.reason, k.time AS saved, k.digest AS "digest in the log", f.digest AS "digest of the files",
    CASE WHEN f.run IS NULL THEN 'never looked at' WHEN f.digest = k.digest THEN 'the same' ELSE coalesce(f.problem, 'not the same') END AS finding,
    f.looked_at AS "looked at"
FROM checkpoints_at($run, $moment) AS k LEFT JOIN checkpoint_files AS f ON f.run = k.run AND f.checkpoint = k.checkpoint
ORDER BY k.moment
