-- The most downloaded model of each architecture that has no probe at its revision, most downloaded first; none beyond
-- the night's limit of parameters. Where the Hub counts no parameters they are taken to be of two bytes each.
WITH open AS (
    SELECT
        repo_id, sha, downloads, checkpoint_bytes AS bytes, coalesce(architectures[1], model_type) AS architecture,
        coalesce(parameter_count, checkpoint_bytes // 2) AS parameters
    FROM latest
    WHERE status = 'ok' AND listed_night IS NOT NULL AND probe_status IS NULL
)
SELECT repo_id, sha, parameters, bytes
FROM open
WHERE architecture IS NOT NULL AND parameters <= getvariable('max_parameters')
QUALIFY row_number() OVER (PARTITION BY architecture ORDER BY downloads DESC NULLS LAST, repo_id) = 1
ORDER BY downloads DESC NULLS LAST, repo_id
