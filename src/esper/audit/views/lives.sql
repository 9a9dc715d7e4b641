-- Lives of seeds, from germination on: (run, site, seed, life) names one. `ended`: the epoch at whose end its last stage began; `undone`: a rollback took it back.
CREATE VIEW lives AS
WITH entered AS (
    SELECT run, site, seed, moment, epoch, life, to_stage AS stage, blueprint, kernel, reason, false AS is_rollback FROM transitions
    UNION ALL
    SELECT s.run, s.site, s.seed, s.moment, s.epoch, s.life, s.stage, s.blueprint, s.kernel, format('rolled back to epoch {}', r.to_epoch), true
    FROM seed_states AS s JOIN rollbacks AS r USING (run, moment)
),
followed AS (
    SELECT *, coalesce(lead(is_rollback) OVER slot AND lead(life) OVER slot IS DISTINCT FROM life, false) AS is_undone
    FROM entered WINDOW slot AS (PARTITION BY run, site, seed ORDER BY moment)
),
turns AS (
    -- A rollback leaves most seeds in the stage that they had.
    SELECT *, NOT is_rollback OR stage IS DISTINCT FROM lag(stage) OVER (PARTITION BY run, site, seed, life ORDER BY moment) AS is_turn
    FROM followed WHERE life IS NOT NULL AND stage <> 'DORMANT'
)
SELECT
    run, site, seed, life, max(blueprint) AS blueprint, max(kernel) AS kernel,
    min(moment) AS germinated_at, life AS germinated, arg_max(stage, moment) AS stage, max(epoch) FILTER (is_turn) AS ended,
    list(stage ORDER BY moment) FILTER (is_turn) AS stages, arg_max(reason, moment) FILTER (is_turn) AS last_reason,
    arg_max(is_undone, moment) AS undone
FROM turns
GROUP BY run, site, seed, life
