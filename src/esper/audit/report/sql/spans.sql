-- The stages of seeds, each from the epoch at whose end it began to that of the next; a rollback puts whole slots into other stages.
WITH entered AS (
    SELECT moment, epoch, site, seed, to_stage AS stage, life, blueprint FROM transitions WHERE run = $run
    UNION ALL
    SELECT s.moment, s.epoch, s.site, s.seed, s.stage, s.life, s.blueprint
    FROM seed_states AS s JOIN rollbacks AS r USING (run, moment) WHERE s.run = $run
),
turns AS (
    FROM entered WINDOW w AS (PARTITION BY site, seed ORDER BY moment)
    QUALIFY stage IS DISTINCT FROM lag(stage) OVER w OR life IS DISTINCT FROM lag(life) OVER w
),
spans AS (
    SELECT *, coalesce(lead(epoch) OVER (PARTITION BY site, seed ORDER BY moment), (SELECT max(epoch) FROM events WHERE run = $run)) AS until
    FROM turns
)
SELECT site, seed, blueprint, stage, epoch AS since, until FROM spans WHERE stage <> 'DORMANT' ORDER BY site, seed, moment
