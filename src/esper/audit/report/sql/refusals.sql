-- Decisions that the gate refused, commands that were refused or failed, and kernels that could not be made.
SELECT
    epoch, moment, fate AS what, adaptation, 'site ' || site || ' slot ' || seed AS seed, blueprint, rule, detail AS why, confidence, urgency
FROM decision_fates WHERE run = $run AND fate IN ('refused', 'command refused', 'failed')
UNION ALL
SELECT epoch, moment, 'kernel failed', NULL, 'site ' || site || ' slot ' || seed, blueprint, NULL, error, NULL, NULL
FROM kernels WHERE run = $run AND status = 'failed'
ORDER BY moment
