-- What a repeat of this run needs, piece by piece. `recorded`; `digest alone`: it can be recognized, not made again; `missing`.
WITH described AS (FROM descriptions WHERE run = $run QUALIFY row_number() OVER (ORDER BY moment DESC) = 1),
source AS (SELECT unnest(sources) AS part FROM described),
pieces AS (
    SELECT 1 AS place, 'code' AS kind, 'revision' AS piece, code_revision AS value, CASE WHEN code_revision IS NULL THEN 'missing' ELSE 'recorded' END AS state
    FROM runs WHERE run = $run
    UNION ALL SELECT 2, 'code', 'uncommitted changes', coalesce(code_dirty_digest, 'none known'),
        CASE WHEN code_dirty_digest IN (SELECT part.digest FROM source WHERE part.complete) THEN 'recorded'
            WHEN code_dirty_digest IS NOT NULL THEN 'digest alone' WHEN code_revision IS NULL THEN 'missing' ELSE 'recorded' END
    FROM runs WHERE run = $run
    UNION ALL SELECT 3, 'code', 'command line', nullif(array_to_string(code_argv, ' '), ''), CASE WHEN coalesce(len(code_argv), 0) = 0 THEN 'missing' ELSE 'recorded' END
    FROM runs WHERE run = $run
    UNION ALL SELECT 4, 'code', 'task', task, 'recorded' FROM runs WHERE run = $run
    UNION ALL SELECT 5, 'settings', 'settings', format('{} settings, defaults included', cardinality(settings)),
        CASE WHEN cardinality(settings) = 0 THEN 'missing' ELSE 'recorded' END
    FROM runs WHERE run = $run
    UNION ALL SELECT 6, 'settings', 'random numbers begin from', CAST(rng_seed AS VARCHAR), 'recorded' FROM runs WHERE run = $run
    UNION ALL
    SELECT 5, 'source', part.name, format('{} bytes, {}', part.size_bytes, part.digest),
        CASE WHEN part.complete AND part.masked = 0 THEN 'recorded' WHEN part.complete THEN 'recorded, secrets masked' ELSE 'digest alone' END
    FROM source WHERE part.name <> 'git diff'
    UNION ALL SELECT 6, 'training', 'model', format('{}, {} parameters, structure {}', model_kind, model_parameters, model_digest), 'recorded' FROM described
    UNION ALL SELECT 6, 'training', 'optimizer', format('{}, {} groups of parameters', optimizer_kind, len(groups)), 'recorded' FROM described
    UNION ALL SELECT 6, 'training', 'scheduler', coalesce(scheduler_kind, 'none'), 'recorded' FROM described
    UNION ALL SELECT 6, 'training', 'loss', coalesce(loss_kind, objective_kind), 'recorded' FROM described
    UNION ALL
    SELECT 6, 'training', 'batches of ' || part.name, format('{} samples, {}', coalesce(CAST(part.batch_size AS VARCHAR), 'unknown'), part.kind), 'recorded'
    FROM (SELECT unnest(loaders) AS part FROM described)
    UNION ALL
    SELECT 6, 'training', 'number formats', array_to_string(precision_parameters, ', ') || coalesce(', autocast ' || precision_autocast, ''), 'recorded'
    FROM described
    UNION ALL
    SELECT 6, 'training', 'description of the training', NULL, 'missing' FROM runs WHERE run = $run AND NOT EXISTS (FROM described)
    UNION ALL SELECT 7, 'data', 'data set ' || name, format('{} samples, {}', coalesce(CAST(length AS VARCHAR), 'unknown'), coalesce(digest, 'no digest')),
        CASE WHEN digest IS NULL THEN 'missing' ELSE 'digest alone' END
    FROM data_sets WHERE run = $run
    UNION ALL SELECT 7, 'data', 'data sets', NULL, 'missing' FROM runs WHERE run = $run AND len(data) = 0
    UNION ALL SELECT 8, 'packages', 'packages', nullif(array_to_string(list_transform(map_entries(packages), lambda e: e.key || ' ' || e.value), ', '), ''),
        CASE WHEN cardinality(packages) = 0 THEN 'missing' ELSE 'recorded' END
    FROM runs WHERE run = $run
    UNION ALL SELECT 9, 'machine', 'hardware', format('{}, {}, {} cores, {:.1f} GB, {}', hardware_machine, hardware_processor, hardware_cores,
        hardware_memory_bytes / 1e9, hardware_operating_system), 'recorded'
    FROM runs WHERE run = $run
    UNION ALL SELECT 10, 'machine', 'device', hardware_device || CASE WHEN len(hardware_gpus) > 0 THEN ': ' || array_to_string(hardware_gpus, ', ') ELSE '' END, 'recorded'
    FROM runs WHERE run = $run
    UNION ALL SELECT 11, 'determinism', 'algorithms', CASE WHEN determinism_deterministic_algorithms THEN 'deterministic alone' ELSE 'any' END,
        CASE WHEN determinism_deterministic_algorithms THEN 'recorded' ELSE 'not pinned' END
    FROM runs WHERE run = $run
    UNION ALL SELECT 12, 'determinism', 'threads', CAST(determinism_threads AS VARCHAR), 'recorded' FROM runs WHERE run = $run
    UNION ALL SELECT 13, 'determinism', 'code path of MKL', determinism_mkl_cbwr, CASE WHEN determinism_mkl_cbwr IS NULL THEN 'not pinned' ELSE 'recorded' END
    FROM runs WHERE run = $run
    UNION ALL
    (
        SELECT 14, 'state', 'untrained model', digest, 'digest alone' FROM checkpoints
        WHERE run = $run AND status = 'saved' AND reason = 'start' ORDER BY moment LIMIT 1
    )
    UNION ALL
    SELECT 15, 'resumed elsewhere', 'difference at moment ' || moment, change, 'recorded'
    FROM (SELECT moment, unnest(environment_changes) AS change FROM resumes WHERE run = $run)
)
SELECT kind, piece, value, state FROM pieces ORDER BY place, piece, value
