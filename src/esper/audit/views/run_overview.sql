-- Runs, one row each: who started what, how far it came, and how it ended. `status` running: it has no end, or was resumed after it.
CREATE VIEW run_overview AS
SELECT
    r.run, r.task, r.time AS started, e.time AS ended,
    CASE WHEN e.status IS NULL OR coalesce(s.moment > e.moment, false) THEN 'running' ELSE e.status END AS status,
    l.epoch AS epochs, r.epochs AS epochs_planned, l.train_loss, l.validation_loss, l.validation_metrics,
    coalesce(e.parameters, l.system_parameters, r.parameters) AS parameters, e.metrics, e.model_digest
FROM runs AS r
LEFT JOIN (FROM run_ends QUALIFY row_number() OVER (PARTITION BY run ORDER BY moment DESC) = 1) AS e USING (run)
LEFT JOIN (FROM resumes QUALIFY row_number() OVER (PARTITION BY run ORDER BY moment DESC) = 1) AS s USING (run)
LEFT JOIN (FROM epochs QUALIFY row_number() OVER (PARTITION BY run ORDER BY moment DESC) = 1) AS l USING (run)
