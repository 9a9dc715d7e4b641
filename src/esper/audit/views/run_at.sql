-- A run as it stood at a moment, one row: FROM run_at('RUN', 1234).
CREATE MACRO run_at(run_id, at_moment) AS TABLE
WITH facts AS (FROM events WHERE run = run_id AND fact IS NOT NULL AND moment <= at_moment AND problem IS NULL AND type <> 'esper.stream.ended.v1'),
last AS (FROM facts ORDER BY fact DESC LIMIT 1),
turn AS (
    FROM facts WHERE type IN ('esper.run.started.v1', 'esper.run.resumed.v1', 'esper.run.finished.v1', 'esper.run.failed.v1')
    ORDER BY fact DESC LIMIT 1
)
SELECT
    last.run, last.moment, last.time, last.epoch, last.step, last.incarnation,
    CASE turn.type WHEN 'esper.run.finished.v1' THEN 'finished' WHEN 'esper.run.failed.v1' THEN 'failed' ELSE 'running' END AS status,
    (SELECT count(*) FROM epochs WHERE run = run_id AND moment <= at_moment) AS epochs_completed,
    (SELECT arg_max(validation_loss, moment) FROM epochs WHERE run = run_id AND moment <= at_moment) AS validation_loss,
    (SELECT max(epoch) FROM transitions WHERE run = run_id AND moment <= at_moment AND to_stage = 'GERMINATED') AS last_germination,
    (SELECT count(*) FROM commands WHERE run = run_id AND moment <= at_moment) AS commands,
    (SELECT count(*) FROM outcomes WHERE run = run_id AND moment <= at_moment AND status = 'applied') AS applied
FROM last LEFT JOIN turn ON true
