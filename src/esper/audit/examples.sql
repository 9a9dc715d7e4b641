-- What changed in the structure of the model, when, and why?
SELECT epoch, adaptation, site, seed, blueprint, reason FROM decision_fates
WHERE fate = 'applied' AND adaptation IN ('germinate', 'graft', 'fossilize', 'cull') ORDER BY run, moment;

-- Was any decision applied that was not above the limits in force?
SELECT d.run, d.epoch, d.adaptation, d.confidence, d.urgency, e.system_gate_confidence_above, e.system_gate_urgency_above
FROM decision_fates AS d ASOF JOIN epochs AS e ON e.run = d.run AND e.moment <= d.moment
WHERE d.fate = 'applied' AND d.adaptation IN ('germinate', 'graft', 'fossilize', 'cull') AND NOT coalesce(
    isfinite(d.confidence) AND isfinite(d.urgency)
    AND d.confidence > e.system_gate_confidence_above AND d.urgency > e.system_gate_urgency_above, false);

-- What did each seed look like when it was culled, culls that a rollback took back left out?
SELECT run, epoch, site, seed, blueprint, reason, health_score, dead_neuron_ratio, evaluation FROM life_ends WHERE ended = 'CULLED' AND NOT undone;

-- Which decisions did the gate refuse, and by which rule?
SELECT run, epoch, adaptation, site, seed, rule, detail FROM decision_fates WHERE fate = 'refused' ORDER BY run, moment;

-- How often was each rule of the gate the reason?
SELECT rule, count(*) AS refusals FROM outcomes WHERE status = 'decision refused' GROUP BY rule ORDER BY refusals DESC;

-- Which runs are there, and how did they end?
SELECT run, task, started, status, epochs, validation_loss, parameters FROM run_overview ORDER BY started DESC;

-- Who started each run, and who approved its limits? NULL was not said.
SELECT run, time, task, "by", approved_by, account FROM runs ORDER BY time DESC;

-- Did two runs have the same code, data, packages and settings?
SELECT a.run, b.run AS other, a.code_revision IS NOT DISTINCT FROM b.code_revision AS code, a.data = b.data AS data,
    a.packages = b.packages AS packages, a.settings = b.settings AS settings
FROM runs AS a JOIN runs AS b ON a.run < b.run;

-- Which settings differ between runs?
SELECT name, list(DISTINCT value) AS found FROM settings GROUP BY name HAVING count(DISTINCT value) > 1 ORDER BY name;

-- How did the losses go, and how many parameters were there?
SELECT run, epoch, train_loss, validation_loss, validation_metrics['accuracy'] AS accuracy, system_parameters FROM epochs ORDER BY run, epoch;

-- By how much did each seed help when it was evaluated?
SELECT run, epoch, site, seed, purpose, evaluation_alpha, evaluation_n, evaluation_mean, evaluation_mean / nullif(evaluation_standard_error, 0) AS z
FROM evaluations ORDER BY run, moment;

-- Which blueprints were tried, and what became of them?
SELECT blueprint, outcome, count(*) AS times, avg(metric_before - metric_after) AS mean_gain FROM field_reports GROUP BY ALL ORDER BY ALL;

-- Where are units dead, by the last measurement of each site?
SELECT run, site, arg_max(dead_neuron_ratio, moment) AS dead, max(epoch) AS epoch FROM health_signals WHERE seed IS NULL GROUP BY run, site;

-- Which steps had a loss or a gradient that is not finite?
SELECT run, epoch, step, loss, gradient_norm FROM steps WHERE NOT isfinite(loss) OR NOT isfinite(gradient_norm) ORDER BY run, step;

-- What was corrected: rollbacks and resumes, with their reasons?
SELECT run, time, epoch, 'rolled back to epoch ' || to_epoch AS what, reason FROM rollbacks
UNION ALL SELECT run, time, epoch, 'resumed from ' || coalesce("checkpoint", 'the start'), array_to_string(environment_changes, '; ') FROM resumes
ORDER BY run, time;

-- Which alerts fired, and was anybody told?
SELECT run, rule, severity, fired, resolved, delivered, failed, suppressed, handlers FROM alert_history WHERE fired IS NOT NULL ORDER BY fired;

-- When was a run silent, and what was lost?
SELECT run, time, status, state, silent_s, NULL AS lost FROM observers WHERE status IN ('went silent', 'heard again')
UNION ALL SELECT run, time, 'dropped', topic, NULL, "count" FROM dropped_samples ORDER BY run, time;

-- Is any record altered, missing, or not what its chain says?
SELECT run, file, "row", topic, what AS problem, noticed_at FROM conflicts
UNION ALL SELECT run, file, "row", topic, coalesce(problem, 'its chain does not follow'), NULL FROM events WHERE problem IS NOT NULL OR NOT follows;

-- Which runs are held, until when, and why?
SELECT h.about, h.until, h.why, h."by" FROM holds AS h WHERE h.status = 'held' AND NOT EXISTS (
    FROM holds AS r WHERE r.about = h.about AND r.status = 'released' AND r.time > h.time);

-- What does the log hold, by topic?
SELECT topic, count(*) AS records, min(time) AS first, max(time) AS last FROM events GROUP BY topic ORDER BY records DESC;
