-- Who accepted the result of this run, in which role, and whether it is the model that came out.
SELECT s.time AS "when", s."by" AS "by whom", s.role, s.note, s.model_digest AS "model accepted",
    CASE
        WHEN s.model_digest IS NULL THEN 'its failure was accepted'
        WHEN s.model_digest = e.model_digest THEN 'the one that came out'
        ELSE 'not the one that came out'
    END AS "that is", s.up_to AS "up to moment"
FROM sign_offs AS s
LEFT JOIN (SELECT arg_max(model_digest, moment) AS model_digest FROM run_ends WHERE run = $run AND status = 'finished') AS e ON true
WHERE s.about = $run ORDER BY s.time, s.run, s.moment
