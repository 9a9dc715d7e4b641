-- The model's size at its beginning and now, and the seeds that are part of it.
SELECT
    r.parameters AS "parameters at the start", v.parameters AS "parameters now",
    (
        SELECT string_agg(format('site {} slot {} {} (epoch {})', s.site, s.seed, s.blueprint, s.since_epoch), ', ' ORDER BY s.site, s.seed)
        FROM seeds_at($run, $moment) AS s WHERE s.stage = 'FOSSILIZED'
    ) AS "seeds that are part of it"
FROM runs AS r JOIN run_overview AS v USING (run) WHERE r.run = $run
