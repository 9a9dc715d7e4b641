-- Decisions with what became of each: `recorded` (none), `refused` by the gate with its rule, `applied`, `command refused`, `failed`, or `pending`.
CREATE VIEW decision_fates AS
SELECT
    d.run, d.moment, d.time, d.epoch, d.step, d.id, d.adaptation, d.site, d.seed, d.blueprint, d.confidence, d.urgency, d.reason, d.evidence,
    CASE
        WHEN r.id IS NOT NULL THEN 'refused'
        WHEN o.status = 'refused' THEN 'command refused'
        WHEN o.status IS NOT NULL THEN o.status
        WHEN d.adaptation = 'none' THEN 'recorded'
        ELSE 'pending'
    END AS fate,
    r.rule, c.command, c.id AS command_id, o.moment AS outcome_moment, coalesce(r.reason, o.reason, o.error) AS detail
FROM decisions AS d
LEFT JOIN outcomes AS r ON r.run = d.run AND r.cause = d.id AND r.status = 'decision refused'
LEFT JOIN commands AS c ON c.run = d.run AND c.cause = d.id
LEFT JOIN outcomes AS o ON o.run = c.run AND o.cause = c.id AND o.status <> 'decision refused'
