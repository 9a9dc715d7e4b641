-- Changes of the structure that took effect: what each rested on, and the limits that were in force then, by their number.
WITH judged AS (
    SELECT epoch, moment, {
        'confidence above': system_gate_confidence_above, 'urgency above': system_gate_urgency_above,
        'adaptations an epoch': system_gate_adaptations_per_epoch, 'every': system_gate_adaptation_every,
        'cooldown': system_gate_cooldown, 'embargo': system_gate_embargo, 'parameters': system_parameters_limit
    } AS gate
    FROM epochs WHERE run = $run
),
numbered AS (SELECT gate, row_number() OVER (ORDER BY min(moment)) AS number FROM judged GROUP BY gate)
SELECT
    o.epoch, o.moment, o.command AS change, 'site ' || o.site || ' slot ' || o.seed AS seed, c.blueprint, d.reason,
    (
        SELECT string_agg(
            CASE
                WHEN e.id IS NOT NULL THEN format('{} @{}: loss {:.4g} without, {:.4g} with, difference {:.4g} ± {:.2g}, {} pairs',
                    e.purpose, e.moment, e.evaluation_loss_without, e.evaluation_loss_with, e.evaluation_mean,
                    e.evaluation_standard_error, e.evaluation_n)
                WHEN p.id IS NOT NULL THEN format('epoch {} @{}', p.epoch, p.moment)
                ELSE named.id
            END, '; ' ORDER BY named.place)
        FROM (SELECT unnest(d.evidence) AS id, generate_subscripts(d.evidence, 1) AS place) AS named
        LEFT JOIN evaluations AS e ON e.run = $run AND e.id = named.id
        LEFT JOIN epochs AS p ON p.run = $run AND p.id = named.id
    ) AS evidence,
    d.confidence, d.urgency, n.number AS limits
FROM outcomes AS o
LEFT JOIN commands AS c ON c.run = o.run AND c.id = o.cause
LEFT JOIN decisions AS d ON d.run = c.run AND d.id = c.cause
ASOF LEFT JOIN judged AS j ON j.moment <= o.moment
LEFT JOIN numbered AS n ON n.gate = j.gate
WHERE o.run = $run AND o.status = 'applied' AND o.command IN ('germinate', 'graft', 'fossilize', 'cull', 'cancel')
UNION ALL
SELECT
    r.epoch, r.moment, 'rollback', CASE WHEN r.blamed_site IS NOT NULL THEN 'site ' || r.blamed_site || ' slot ' || r.blamed_seed END, NULL,
    format('from epoch {} back to the end of epoch {}: {}', r.from_epoch, r.to_epoch, r.reason), r.checkpoint, NULL, NULL, NULL
FROM rollbacks AS r WHERE r.run = $run
ORDER BY moment
