-- Runs, one row each: who started what, how far it came, and how it ended. `status` running: it has no end, or was resumed after it.
CREATE VIEW run_overview AS
SELECT
    r.run, r.task, r.name, r.tags, r.time AS started, e.time AS ended, coalesce(e.status, 'running') AS status,
    l.epoch AS epochs, r.epochs AS epochs_planned, l.train_loss, l.validation_loss, l.validation_metrics,
    coalesce(e.parameters, l.system_parameters, r.parameters) AS parameters, e.metrics, e.model_digest
FROM runs AS r
LEFT JOIN (
    FROM run_ends AS n WHERE NOT EXISTS (FROM resumes AS s WHERE s.run = n.run AND s.moment > n.moment)
    QUALIFY row_number() OVER (PARTITION BY run ORDER BY moment DESC) = 1
) AS e USING (run)
LEFT JOIN (FROM epochs QUALIFY row_number() OVER (PARTITION BY run ORDER BY moment DESC) = 1) AS l USING (run)
