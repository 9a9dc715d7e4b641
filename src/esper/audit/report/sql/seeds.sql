-- Seeds as they stood then, those of empty slots apart.
SELECT s.site, s.seed AS slot, s.blueprint, s.stage, s.since_epoch AS "since epoch", s.life AS "germinated in epoch", s.alpha
FROM seeds_at($run, $then) AS s WHERE s.stage <> 'DORMANT' ORDER BY s.site, s.seed
