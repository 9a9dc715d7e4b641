-- The seed table as it stood at a moment, a row a slot: FROM seeds_at('RUN', 1234). What was measured is of the last epoch's end.
--
-- A row of seed_states holds all of a slot: it was written at an epoch's end, or by a rollback. Transitions after it change the stage, and
-- a new life begins with nothing measured; evaluations after it replace the row's.
CREATE MACRO seeds_at(run_id, at_moment) AS TABLE
WITH slots AS (
    SELECT site.name AS site, unnest(range(site.slots)) AS seed FROM (SELECT unnest(sites) AS site FROM runs WHERE run = run_id)
    UNION SELECT site, seed FROM transitions WHERE run = run_id AND moment <= at_moment
),
base AS (
    FROM seed_states WHERE run = run_id AND moment <= at_moment
    QUALIFY row_number() OVER (PARTITION BY site, seed ORDER BY moment DESC) = 1
),
moves AS (
    SELECT t.*, bool_and(t.life IS NOT DISTINCT FROM b.life) OVER (PARTITION BY t.site, t.seed) AS same_life
    FROM transitions AS t LEFT JOIN base AS b USING (site, seed)
    WHERE t.run = run_id AND t.moment <= at_moment AND t.moment > coalesce(b.moment, 0)
    QUALIFY row_number() OVER (PARTITION BY t.site, t.seed ORDER BY t.moment DESC) = 1
),
present AS (
    SELECT
        s.site, s.seed, coalesce(m.to_stage, b.stage, 'DORMANT') AS stage, coalesce(m.epoch, b.since_epoch, 0) AS since_epoch,
        CASE WHEN m.id IS NULL THEN b.life ELSE m.life END AS life,
        CASE WHEN m.id IS NULL THEN b.blueprint ELSE m.blueprint END AS blueprint,
        CASE WHEN m.id IS NULL THEN b.kernel ELSE m.kernel END AS kernel,
        CASE WHEN m.id IS NULL THEN b.embargo_until ELSE m.embargo_until END AS embargo_until,
        CASE WHEN m.id IS NULL THEN b.ready END AS ready,
        CASE WHEN coalesce(m.same_life, true) THEN b END AS measured
    FROM slots AS s LEFT JOIN base AS b USING (site, seed) LEFT JOIN moves AS m USING (site, seed)
),
evaluated AS (
    SELECT p.site, p.seed, e.id, {
        'epoch': e.evaluation_epoch, 'alpha': e.evaluation_alpha, 'n': e.evaluation_n, 'k': e.evaluation_k, 'look': e.evaluation_look,
        'mean': e.evaluation_mean, 'standard_error': e.evaluation_standard_error,
        'skewness': e.evaluation_skewness, 'loss_without': e.evaluation_loss_without, 'loss_with': e.evaluation_loss_with
    } AS evaluation
    FROM present AS p JOIN evaluations AS e ON e.run = run_id AND e.site = p.site AND e.seed = p.seed AND e.life = p.life
    WHERE e.moment <= at_moment AND (
        e.moment > coalesce(p.measured.moment, 0)
        -- A rollback's row without an evaluation leaves the slot with the one that it had, if it held the same life.
        OR p.measured.evaluation IS NULL AND EXISTS (FROM rollbacks AS r WHERE r.run = run_id AND r.moment = p.measured.moment) AND (
            SELECT arg_max_null(t.life, t.moment) FROM transitions AS t
            WHERE t.run = run_id AND t.site = p.site AND t.seed = p.seed AND t.moment < p.measured.moment
        ) IS NOT DISTINCT FROM p.life
    )
    QUALIFY row_number() OVER (PARTITION BY p.site, p.seed ORDER BY e.moment DESC) = 1
)
SELECT
    run_id AS run, p.site, p.seed, p.stage, p.since_epoch, p.life, p.blueprint, p.kernel, p.embargo_until, p.measured.alpha AS alpha, p.ready,
    coalesce(p.measured.recovering, false) AS recovering, coalesce(p.measured.errors, 0) AS errors,
    p.measured.activation_variance AS activation_variance, p.measured.gradient_variance AS gradient_variance,
    p.measured.dead_neuron_ratio AS dead_neuron_ratio, p.measured.avg_correlation AS avg_correlation,
    p.measured.health_score AS health_score, p.measured.loss_at_germination AS loss_at_germination,
    p.measured.loss_before_graft AS loss_before_graft,
    coalesce(e.evaluation, p.measured.evaluation) AS evaluation, coalesce(e.id, p.measured.evaluated) AS evaluated
FROM present AS p LEFT JOIN evaluated AS e USING (site, seed)
ORDER BY p.site, p.seed
