-- Checkpoints that were kept at a moment: FROM checkpoints_at('RUN', 1234).
CREATE MACRO checkpoints_at(run_id, at_moment) AS TABLE
SELECT run, checkpoint, digest, size_bytes, reason, epoch, moment, time FROM checkpoints AS saved
WHERE run = run_id AND moment <= at_moment AND status = 'saved' AND NOT EXISTS (
    FROM checkpoints AS pruned
    WHERE pruned.run = run_id AND pruned.moment <= at_moment AND pruned.moment > saved.moment
    AND pruned.status = 'pruned' AND pruned.checkpoint = saved.checkpoint
)
