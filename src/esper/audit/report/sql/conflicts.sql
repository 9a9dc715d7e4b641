-- Records that were altered, removed or added after they had been read.
SELECT noticed_at AS noticed, file, "row", topic, moment, what, found AS "sha256 of what is there" FROM conflicts WHERE run = $run ORDER BY noticed_at, file, "row"
