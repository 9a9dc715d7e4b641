-- Holds of all runs, and their release.
SELECT about AS run, about = $run AS "this run", time AS "when", status, until, why, "by" AS "by whom" FROM holds ORDER BY about = $run DESC, holds.time, holds.run, holds.moment
