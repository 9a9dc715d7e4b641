-- Checks of this run that are on record: when each first gave its result, and up to which moment of the run it last did.
SELECT check_name AS "check", result, min(time) AS first, max(time) AS last, max(up_to) AS "up to moment", count(*) AS times,
    array_to_string(list_sort(list(DISTINCT coalesce("by", 'not said'))), ', ') AS "asked by"
FROM checks WHERE about = $run GROUP BY check_name, result ORDER BY "check", first, result
