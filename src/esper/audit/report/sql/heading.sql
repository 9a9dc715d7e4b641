-- The run in one row.
SELECT
    v.task, v.status, v.started, v.ended, v.epochs, v.epochs_planned AS "epochs planned", v.parameters, v.model_digest AS "digest of the model",
    r."by" AS "started by", r.approved_by AS "limits approved by",
    r.account
FROM run_overview AS v JOIN runs AS r USING (run) WHERE v.run = $run
