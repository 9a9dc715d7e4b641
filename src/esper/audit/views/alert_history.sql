-- Alerts from their beginning to now: when each was pending, fired and was resolved, and how often handlers were told that it fired.
CREATE VIEW alert_history AS
SELECT
    a.run, a.fingerprint, a.since, any_value(a.rule) AS rule, any_value(a.severity) AS severity, any_value(a.labels) AS labels,
    arg_max(a.annotations['summary'], a.time) AS summary,
    min(a.time) FILTER (a.status = 'firing') AS fired, min(a.time) FILTER (a.status = 'resolved') AS resolved,
    arg_max(a.status, (a.time, a.status = 'resolved')) AS status,
    count(n.id) FILTER (a.status = 'firing' AND n.outcome = 'delivered') AS delivered,
    count(n.id) FILTER (a.status = 'firing' AND n.outcome = 'failed') AS failed,
    count(n.id) FILTER (a.status = 'firing' AND n.status = 'suppressed') AS suppressed,
    list(DISTINCT n.handler) FILTER (n.outcome = 'delivered') AS handlers
FROM alerts AS a LEFT JOIN notifications AS n ON n.run = a.run AND n.alert = a.id
GROUP BY a.run, a.fingerprint, a.since
