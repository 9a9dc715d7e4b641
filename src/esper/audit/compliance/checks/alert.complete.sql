-- name = "alert.complete"
-- version = 1
-- title = "Every loss that is not finite, and everything that a rule in force waits for, raised an alert."
-- proves = "Nothing that the rules were to find went unnoticed. A loss that is not finite is asked about in every run, observed or not."
-- cannot_show = "What a rule with `for`, `count` or a limit on an event waits for, and metrics other than loss, gradient_norm, train.loss and validation.loss; that the rules are good ones. A rule is in force from where an observer named it; where more than alerts.most alerts are open, no further ones are raised."
-- clauses = ["SOC 2 CC7.2"]

-- population
WITH started AS (
    SELECT run, moment AS since, lead(moment) OVER (PARTITION BY run ORDER BY moment, time) AS until, settings['rules'] AS rules
    FROM observers WHERE status = 'started'
),
reached AS (
    SELECT run, max(moment) AS moment, (SELECT count(*) > 0 FROM run_ends AS n WHERE n.run = events.run) AS is_ended
    FROM events WHERE file = 'observed' GROUP BY run
),
written AS (
    SELECT run, since, until, unnest(from_json(rules, '[{
        "name": "VARCHAR", "topic": "VARCHAR", "for_s": "BIGINT", "source": {
            "metric": "VARCHAR", "detector": "VARCHAR", "kind": "VARCHAR", "where": "VARCHAR[][]", "count": "BIGINT",
            "limit": {"side": "VARCHAR", "value": "DOUBLE"}
        }
    }]')) AS rule FROM started
),
in_force AS (
    SELECT run, since, until, rule.name AS rule, rule.topic AS topic, rule.source.metric AS metric, rule.source.detector AS detector,
        rule.source.kind AS kind, rule.source.where AS fields, rule.source.limit.side AS side, rule.source.limit.value AS limit_value
    FROM written WHERE rule.for_s = 0 AND coalesce(rule.source.count, 1) = 1 AND (rule.source.kind IS NULL OR rule.source.limit IS NULL)
),
measured AS (
    SELECT run, moment, 'telemetry.training.steps' AS topic, 'loss' AS metric, loss AS value FROM steps
    UNION ALL SELECT run, moment, 'telemetry.training.steps', 'gradient_norm', gradient_norm FROM steps
    UNION ALL SELECT run, moment, 'system.events.epoch', 'train.loss', train_loss FROM epochs
    UNION ALL SELECT run, moment, 'system.events.epoch', 'validation.loss', validation_loss FROM epochs
),
breached AS (
    SELECT DISTINCT run, moment, topic, NULL AS rule, metric, NULL AS site, NULL AS seed, metric || ' is ' || value AS breach, true AS is_judged
    FROM measured WHERE metric IN ('loss', 'validation.loss') AND NOT isfinite(value)
    UNION ALL
    SELECT DISTINCT m.run, m.moment, m.topic, f.rule, m.metric, NULL, NULL, m.metric || ' is ' || m.value, false
    FROM measured AS m JOIN in_force AS f USING (run, topic, metric)
    WHERE f.detector IS NULL AND m.moment > f.since AND m.moment <= coalesce(f.until, m.moment) AND CASE f.side
        WHEN 'not_finite' THEN NOT isfinite(m.value)
        WHEN 'above' THEN NOT isnan(m.value) AND m.value > f.limit_value
        ELSE NOT isnan(m.value) AND m.value < f.limit_value
    END
    UNION ALL
    SELECT a.run, a.moment, a.topic, f.rule, a.metric, a.site, a.seed::VARCHAR, format('anomaly {} in {}', a.detector, a.metric), false
    FROM anomalies AS a JOIN in_force AS f ON f.run = a.run AND f.topic = a.topic AND f.detector = a.detector
    WHERE (f.metric IS NULL OR a.metric = f.metric OR starts_with(a.metric, f.metric || '{'))
    AND a.moment > f.since AND a.moment <= coalesce(f.until, a.moment)
    UNION ALL
    SELECT e.run, e.moment, e.topic, f.rule, NULL, e.data ->> '$.site', e.data ->> '$.seed', e.type, false
    FROM events AS e JOIN in_force AS f ON f.run = e.run AND f.topic = e.topic AND f.kind = e.type
    WHERE e.problem IS NULL AND e.moment > f.since AND e.moment <= coalesce(f.until, e.moment)
    AND len(list_filter(f.fields, lambda w: (e.data ->> ('$.' || w[1])) IS DISTINCT FROM w[2])) = 0
)
SELECT
    b.run, b.moment, b.rule, b.breach, EXISTS (
        FROM alerts AS f WHERE f.run = b.run AND f.status = 'firing' AND f.topic = b.topic AND f.moment <= b.moment
        AND (f.rule = b.rule OR b.rule IS NULL)
        AND (f.labels['metric'] IS NULL OR f.labels['metric'] = b.metric)
        AND (f.labels['site'] IS NULL OR f.labels['site'] = b.site)
        AND (f.labels['seed'] IS NULL OR f.labels['seed'] = b.seed)
        AND NOT EXISTS (
            FROM alerts AS r WHERE r.run = f.run AND r.status = 'resolved' AND r.fingerprint = f.fingerprint AND r.since = f.since
            AND r.moment < b.moment
        )
    ) AS is_raised
FROM breached AS b LEFT JOIN reached AS o USING (run)
-- An observer may still be on its way to the end of a run that goes on.
WHERE b.moment <= o.moment OR o.is_ended OR o.moment IS NULL

-- violations
SELECT run, moment, format('{}: expected an alert{}, got none', breach, coalesce(' of rule ' || rule, '')) AS what
FROM population WHERE NOT is_raised
