-- Alerts that fired, who was told of each and when, how it ended, and what the training did next.
SELECT
    h.fired, h.severity, h.rule, h.summary,
    (
        SELECT string_agg(format('{}: {}', n.handler, CASE
            WHEN n.status = 'suppressed' THEN 'not told (' || replace(n.why, '_', ' ') || ')'
            WHEN n.outcome = 'delivered' THEN 'told ' || strftime(n.time, '%Y-%m-%d %H:%M:%S')
            ELSE 'not reached: ' || coalesce(n.error, 'no reason given') END), '; ' ORDER BY n.time, n.handler)
        FROM notifications AS n JOIN alerts AS a ON a.run = n.run AND a.id = n.alert
        WHERE n.run = h.run AND a.status = 'firing' AND a.fingerprint = h.fingerprint AND a.since = h.since
    ) AS "who was told",
    (
        SELECT string_agg(format('{} until {}: {}', k.by, replace(k.until[:16], 'T', ' '), k.note), '; ' ORDER BY k.time)
        FROM acknowledgements AS k WHERE k.about = h.run AND k.fingerprint = h.fingerprint
    ) AS "who took it over",
    h.resolved,
    (
        SELECT arg_min(t.what, t.moment) FROM (
            SELECT moment, time, 'rolled back to epoch ' || to_epoch AS what FROM rollbacks WHERE run = $run
            UNION ALL SELECT moment, time, 'run ' || status FROM run_ends WHERE run = $run
            UNION ALL SELECT moment, time, 'resumed' FROM resumes WHERE run = $run
        ) AS t WHERE t.time >= h.fired
    ) AS "what came next",
    h.delivered, h.failed, h.suppressed
FROM alert_history AS h WHERE h.run = $run AND h.fired IS NOT NULL
ORDER BY h.fired, h.rule, h.since, h.fingerprint
