-- Parts of the trail, where holds and acceptances stand, that could not be read to their end.
SELECT run, file, records, problem FROM positions WHERE starts_with(run, 'audit:') AND problem IS NOT NULL ORDER BY run, file
