-- What became of all decisions, those to do nothing included.
SELECT coalesce(nullif(fate, 'recorded'), 'recorded: nothing was to be done') AS "what became of it", adaptation, count(*) AS decisions
FROM decision_fates WHERE run = $run GROUP BY fate, adaptation ORDER BY fate, adaptation
