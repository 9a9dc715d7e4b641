-- Seeds that became part of the model, or were to: what each was worth on the validation data when that was last measured, in pairs.
SELECT
    e.epoch, e.moment, 'site ' || e.site || ' slot ' || e.seed AS seed, l.blueprint, e.purpose, e.evaluation_loss_without AS "loss without",
    e.evaluation_loss_with AS "loss with", e.evaluation_mean AS "lowered by", e.evaluation_standard_error AS "standard error",
    e.evaluation_n AS pairs, CASE WHEN l.undone THEN 'taken back by a rollback' ELSE l.stage END AS "what became of it"
FROM evaluations AS e JOIN lives AS l USING (run, site, seed, life)
WHERE e.run = $run QUALIFY row_number() OVER (PARTITION BY e.site, e.seed, e.life ORDER BY e.moment DESC) = 1
ORDER BY e.moment
