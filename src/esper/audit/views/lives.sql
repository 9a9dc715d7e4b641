-- Lives of seeds, from germination on: (run, site, seed, life) names one. `ended`: the epoch at whose end its last stage began.
CREATE VIEW lives AS
SELECT
    run, site, seed, life, max(blueprint) AS blueprint, max(kernel) AS kernel,
    min(moment) AS germinated_at, life AS germinated, arg_max(to_stage, moment) AS stage, max(epoch) AS ended,
    list(to_stage ORDER BY moment) AS stages, arg_max(reason, moment) AS last_reason
FROM transitions WHERE life IS NOT NULL AND to_stage <> 'DORMANT'
GROUP BY run, site, seed, life
