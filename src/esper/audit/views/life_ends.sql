-- Seeds as they were when their lives ended: the stage that ended each, the reason, and what was last measured of it before. `undone`: a rollback took the end back.
CREATE VIEW life_ends AS
SELECT
    t.run, t.moment, t.time, t.epoch, t.site, t.seed, t.life, t.blueprint, t.to_stage AS ended, t.from_stage, t.reason,
    EXISTS (FROM rollbacks AS r WHERE r.run = t.run AND r.moment > t.moment AND r.to_epoch < t.epoch) AS undone,
    s.epoch AS measured, s.alpha, s.health_score, s.dead_neuron_ratio, s.avg_correlation, s.activation_variance, s.gradient_variance,
    s.recovering, s.errors, s.loss_at_germination, s.loss_before_graft, s.evaluation
FROM transitions AS t
ASOF LEFT JOIN seed_states AS s ON s.run = t.run AND s.site = t.site AND s.seed = t.seed AND s.life = t.life AND s.moment <= t.moment
WHERE t.to_stage IN ('FOSSILIZED', 'CULLED', 'CANCELLED', 'ROLLED_BACK')
