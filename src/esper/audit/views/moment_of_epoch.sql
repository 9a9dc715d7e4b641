-- The last moment of epoch `at_epoch` of a run: that epoch is over, and its decisions have taken effect. moment_of_epoch('RUN', 31)
CREATE MACRO moment_of_epoch(run_id, at_epoch) AS (
    SELECT max(moment) FROM events WHERE run = run_id AND fact IS NOT NULL AND epoch <= at_epoch AND type <> 'esper.stream.ended.v1'
)
