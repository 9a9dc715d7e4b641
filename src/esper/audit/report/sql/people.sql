-- Who is named in the log as having started this run, approved its limits or resumed it; NULL: nobody was named.
WITH named AS (
    SELECT time, moment, 1 AS place, 'started by' AS what, "by" AS who FROM runs WHERE run = $run
    UNION ALL SELECT time, moment, 2, 'limits approved by', approved_by FROM runs WHERE run = $run
    UNION ALL SELECT time, moment, 3, 'account of the process', account FROM runs WHERE run = $run
    UNION ALL
    SELECT time, moment, 4, 'changed at a resume', change
    FROM (SELECT time, moment, unnest(environment_changes) AS change FROM resumes WHERE run = $run)
    WHERE regexp_matches(change, '^(by|approved_by|account) ')
)
SELECT time AS "when", moment, what, who FROM named ORDER BY moment, place, who
