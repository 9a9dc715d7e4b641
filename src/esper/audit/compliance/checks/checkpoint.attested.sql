-- name = "checkpoint.attested"
-- version = 1
-- title = "The files of every checkpoint that is kept are those that the log names."
-- proves = "Each kept checkpoint was there, whole and with the digest in the log, when its files were last looked at (checkpoint_files.looked_at)."
-- cannot_show = "That the training state in it is right; nothing of a checkpoint that was pruned."
-- clauses = ["NIST AI RMF GOVERN 6.1"]

-- population
SELECT s.run, s.moment, s.checkpoint, s.digest AS expected, f.digest AS found, f.problem
FROM (FROM checkpoints WHERE status = 'saved' QUALIFY row_number() OVER (PARTITION BY run, checkpoint ORDER BY moment DESC) = 1) AS s
JOIN checkpoint_files AS f USING (run, checkpoint)
WHERE NOT EXISTS (
    FROM checkpoints AS p WHERE p.run = s.run AND p.checkpoint = s.checkpoint AND p.status = 'pruned' AND p.moment > s.moment
)

-- violations
SELECT run, moment, format('checkpoint {}: expected files with digest {}, got {}', checkpoint, expected, coalesce(found, problem, 'none')) AS what
FROM population WHERE found IS DISTINCT FROM expected
